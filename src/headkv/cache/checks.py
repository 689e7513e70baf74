"""What a caller hands to the cache and to a prefill, checked before anything is computed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from headkv.cache.layer_plan import LayerPlan
from headkv.errors import UserError
from headkv.methods.method import Method
from headkv.records import text_config


def check_method(given: object) -> None:
    """Raises `UserError` unless what was given is a method; a name of one is not."""
    if not isinstance(given, Method):
        what = repr(given) if isinstance(given, str) else type(given).__name__
        raise UserError(
            f"{what} was given where a method is wanted",
            allowed="what headkv.build_method returns",
            do='give headkv.build_method("snapkv", kv_size=128) or another',
        )


def check_template(template_tokens: object) -> None:
    """Raises `UserError` unless the number of the template's tokens is one."""
    if type(template_tokens) is not int or template_tokens < 0:
        raise UserError(
            f"template_tokens={template_tokens!r}",
            allowed="a whole number, 0 or more",
            do="give how many of the prompt's last tokens are the chat template's",
        )


def check_ends(ends: object) -> None:
    """Raises `UserError` unless it is None or says of every token whether a span ends with it."""
    if ends is not None and (
        not isinstance(ends, Tensor) or ends.ndim != 2 or ends.dtype != torch.bool
    ):
        raise UserError(
            f"ends of type {type(ends).__name__}",
            allowed="a bool tensor [batch, token]",
            do="give headkv.span_ends(tokenizer, input_ids)",
        )


def check_inputs(config: Any, inputs: object) -> None:
    """Checks a batch of prompts.

    Args:
        config: the model's.
        inputs: what a tokenizer returns: `input_ids`, and `attention_mask` if there is padding.

    Raises:
        UserError: no batch of token ids of this model.
    """
    allowed = "what the tokenizer returns: input_ids [batch, token], 1 token or more"
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(ids, Tensor):
        raise UserError(
            f"{type(inputs).__name__} without a tensor of input_ids",
            allowed=allowed,
            do='call tokenizer(texts, return_tensors="pt", padding=True)',
        )
    if ids.ndim != 2 or ids.numel() == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(
            f"input_ids of shape {tuple(ids.shape)} and {ids.dtype}",
            allowed=allowed,
            do="give one or more prompts that are not empty",
        )
    vocabulary = int(text_config(config).vocab_size)
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= vocabulary:
        raise UserError(
            f"input_ids from {least} to {most}",
            allowed=f"0 to {vocabulary - 1}, the model's vocabulary",
            do="use this model's tokenizer",
        )


def check_positions(positions: Tensor | None, seen: int) -> None:
    """Checks that several new tokens go on where a cache ends: else it holds another prompt.

    Args:
        positions: of the new tokens, `[batch, token]`, of sequences one of which has no padding.
        seen: tokens that the cache has seen, the new ones included.

    Raises:
        UserError: the positions are those of another text.
    """
    if positions is not None and positions.ndim == 2 and int(positions.max()) + 1 != seen:
        raise UserError(
            f"a prompt that ends at position {int(positions.max())} on a cache that holds another "
            f"and is at {seen}",
            allowed="one cache a prompt, or further tokens of the same text",
            do="make a CompressedCache for every prompt, or call cache.reset()",
        )


def check_mask(mask: Tensor | None, batch: int, tokens: int, exactly: bool) -> None:
    """Checks the shape of a padding mask.

    Args:
        mask: `[batch, token]`; None: there is no padding.
        batch: sequences.
        tokens: of the prompt.
        exactly: whether it may not be longer either.

    Raises:
        UserError: it is for other sequences than these.
    """
    if mask is None or mask.ndim != 2:
        return
    rows, length = mask.shape
    if rows != batch or length < tokens or (exactly and length > tokens):
        raise UserError(
            f"an attention mask of {rows} x {length} for {batch} prompts of {tokens} tokens",
            allowed="one row a prompt, one entry a token",
            do="pass the tokenizer's attention_mask with its input_ids",
        )


def check_window(plan: LayerPlan, tokens: int) -> None:
    """Refuses what a window of a model of sliding layers only would drop, one entry after another.

    Args:
        plan: the layer's part in the model.
        tokens: of prompt and answer so far.

    Raises:
        UserError: they are more than the window.
    """
    if plan.window is not None and tokens > plan.window:
        raise UserError(
            f"{tokens} tokens in a layer whose sliding window is {plan.window}",
            allowed=f"up to {plan.window} tokens, prompt and answer together",
            do="shorten the prompt, or use a model with full-attention layers",
        )
