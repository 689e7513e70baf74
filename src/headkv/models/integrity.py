"""Whether what was loaded is the model that its folder describes, tokenizer included."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from headkv.errors import UserError
from headkv.storage.reading import parse, read_bytes

_SIZES = {
    "num_hidden_layers": 10_000,
    "hidden_size": 10**7,
    "intermediate_size": 10**8,
    "num_attention_heads": 10**5,
    "vocab_size": 10**8,
    "max_position_embeddings": 10**10,
}
"""Sizes of a config and the most that anybody ever meant."""
_FAULTS = {
    "missing_keys": "lacks",
    "mismatched_keys": "has another shape of",
    "unexpected_keys": "has what the model does not take:",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from printing pages about what is refused in one line anyway."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def check_config(folder: Path, do: str) -> None:
    """Refuses a config whose sizes cannot be, before a model of that size is built.

    Args:
        folder: of the model.
        do: what to do, for the message.

    Raises:
        UserError: no config.json, or one that is no object or has such sizes.
    """
    path = folder / "config.json"
    allowed = "the config of a causal language model"
    raw = read_bytes(path, "the model's config", allowed=allowed, do=do)
    try:
        content = parse(raw)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        inner = content.get("text_config")
        for key, most in _SIZES.items():
            for part in (content, inner if isinstance(inner, dict) else {}):
                size = part.get(key, 1)
                if isinstance(size, list | None):  # one a layer, or what transformers works out
                    continue
                if type(size) is not int or not 1 <= size <= most:
                    raise ValueError(f"{key} is {str(size)[:20]!r}, not 1 to {most}")
    except ValueError as problem:
        what = f"cannot read the model's config {str(path)[-80:]}: {problem}"
        raise UserError(what, allowed=allowed, do=do) from problem


def check_weights(folder: Path, info: Mapping[str, Any], do: str) -> None:
    """Refuses a folder whose tensors are not the model's: the rest would be random numbers.

    Tensors that are tied to others, or that transformers knows to be left out, are no fault.

    Args:
        folder: of the model, for the message.
        info: what `from_pretrained` reports with `output_loading_info=True`.
        do: what to do, for the message.

    Raises:
        UserError: tensors are missing, of another shape or unexpected; names the first.
    """
    for kind, verb in _FAULTS.items():
        names = sorted(
            each if isinstance(each, str) else str(each[0]) for each in info.get(kind, ())
        )
        if names:
            others = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise UserError(
                f"{str(folder)[-80:]} {verb} {names[0][:60]}{others}",
                allowed="a folder with every tensor of its config",
                do=do,
            )


def check_tokenizer(folder: Path, model: Any, tokenizer: Any, do: str) -> None:
    """Refuses a tokenizer that knows no text, or tokens that the model has no row for.

    Args:
        folder: of the model, for the message.
        model: the model.
        tokenizer: its tokenizer.
        do: what to do, for the message.

    Raises:
        UserError: it does not belong to the model.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    where = str(folder)[-80:]
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer in {where} has {len(tokenizer)} tokens, the model {rows}",
            allowed="the tokenizer that the model was trained with",
            do=do,
        )
    try:
        known = bool(tokenizer("text", add_special_tokens=False)["input_ids"])
    except Exception:  # whatever a broken one raises
        known = False
    if not known:
        raise UserError(
            f"the tokenizer in {where} makes no tokens of text",
            allowed="the tokenizer that the model was trained with",
            do=do,
        )
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (type(end) is not int or not 0 <= end < rows):
            raise UserError(
                f"eos_token_id {str(end)[:40]!r} in {where}",
                allowed=f"numbers of tokens, 0 to {rows - 1}",
                do="mend config.json or generation_config.json there",
            )
