"""Whether a KV size can be: what can be said of it before any prompt, and without torch."""

from headkv.errors import UserError


def check_size(name: str, kv_size: object) -> None:
    """Raises `UserError` unless the KV size of a compressing method is a number of tokens."""
    if not isinstance(kv_size, int) or isinstance(kv_size, bool) or not 1 <= kv_size <= LARGEST:
        raise UserError(
            f"{name} with kv_size={kv_size!r}",
            allowed="a whole number of tokens, 1 or more (not a ratio of the prompt)",
            do="set kv_size=128",
        )


def check_room(kv_size: int, window_size: int, template_tokens: int) -> None:
    """Raises `UserError` if what always stays leaves no room in a KV size."""
    tail = window_size + template_tokens
    if kv_size <= tail:
        raise UserError(
            f"kv_size={kv_size} does not exceed the {tail} tokens that are always kept "
            f"(window_size {window_size} + {template_tokens} of the chat template)",
            allowed=f"kv_size of {tail + 1} or more",
            do="raise kv_size= or lower window_size=",
        )


def check_shape(layers: int, query_heads: int, kv_heads: int, tokens: int) -> None:
    """Raises `UserError` unless a prompt and a model can have these sizes."""
    counted = all(isinstance(each, int) for each in (layers, query_heads, kv_heads, tokens))
    if not counted or min(layers, kv_heads) < 1 or tokens < 0 or query_heads % kv_heads:
        raise UserError(
            f"{layers} layers, {query_heads} query heads, {kv_heads} KV heads, {tokens} tokens",
            allowed="whole numbers, 1 or more, query heads in whole groups of KV heads",
            do="give the sizes of the model, as its config has them",
        )


LARGEST = 2**40
"""Tokens; no context is longer, and products of it still fit 64 bits."""
