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


LARGEST = 2**40
"""Tokens; no context is longer, and products of it still fit 64 bits."""
