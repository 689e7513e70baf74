"""The one attention function, for every model that transformers can route through it.

Registered as `attn_implementation="headkv"`. Three cases: no headkv cache (plain causal
attention), the prompt (plain causal attention, then compression), and tokens after it, which the
cache layer attends, as it knows what it holds.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from headkv.cache.checks import check_mask, check_positions
from headkv.errors import UserError
from headkv.kernels import causal_attention

NAME = "headkv"


def headkv_mask(
    *args: Any,
    attention_mask: Tensor | None = None,
    mask_function: Callable[..., Any] | None = None,
    allow_is_causal_skip: bool = True,
    local_size: int | None = None,
    q_length: int | None = None,
    kv_length: int | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """Hands on the padding mask, `[batch, token]`; causality needs no matrix.

    Raises:
        UserError: the model wants a pattern that is neither causal nor a sliding window, or there
            are no tokens, or not those that the mask is for.
    """
    if kv_length == 0 and q_length:  # a frozen cache: see `FrozenLayer.get_mask_sizes`
        return None
    if q_length == 0:
        raise UserError(
            "no new tokens: the prompt is empty, or no longer than what the cache holds already",
            allowed="a prompt, on a cache of its own",
            do="make a CompressedCache for every prompt, or call cache.reset()",
        )
    if attention_mask is not None and attention_mask.ndim == 2 and local_size is None:
        held = attention_mask.shape[1]
        if kv_length is not None and held < kv_length:
            raise UserError(
                f"an attention mask of {held} tokens where the cache and the new tokens are "
                f"{kv_length}",
                allowed="the mask of the whole text, and a cache that holds its beginning",
                do="make a CompressedCache for every prompt, or call cache.reset()",
            )
    odd = not allow_is_causal_skip
    if mask_function is not None and local_size:  # 0: a window that no layer uses
        # The token just inside a sliding window; in chunked attention it lies in another chunk.
        query, key = torch.tensor(local_size), torch.tensor(1)
        odd = odd or not bool(mask_function(torch.tensor(0), torch.tensor(0), query, key))
    if odd:
        raise UserError(
            "a static cache, or a model that wants a pattern that is not causal",
            allowed="causal attention and sliding windows, DynamicCache or CompressedCache",
            do='leave cache_implementation= out, or load with attn_implementation="sdpa"',
        )
    return attention_mask


def left_padding(mask: Tensor | None, batch: int) -> list[int]:
    """Counts the tokens of left padding of each sequence.

    Args:
        mask: `[batch, token]`, 1 for tokens and 0 for padding; None: there is no padding.
        batch: number of sequences.

    Raises:
        UserError: zeros of the mask are not all on the left.
    """
    if mask is None:
        return [0] * batch
    known = getattr(mask, "headkv_padding", None)
    if known is None:
        if mask.ndim != 2:
            raise UserError(
                f"an attention mask of shape {tuple(mask.shape)}",
                allowed="[batch, token], 1 for tokens and 0 for padding",
                do="pass the tokenizer's attention_mask",
            )
        seen = mask.bool()
        known = (~seen).sum(1).tolist()
        if max(known, default=0) == mask.shape[1]:
            raise UserError(
                f"sequence {known.index(mask.shape[1])} of the batch is padding alone",
                allowed="one token or more in every sequence",
                do="leave empty texts out",
            )
        if not bool((seen.long().diff(dim=1) >= 0).all()):
            raise UserError(
                "an attention mask with padding behind or between tokens",
                allowed="padding on the left",
                do='set tokenizer.padding_side = "left"',
            )
        mask.headkv_padding = known  # type: ignore[attr-defined]  # every layer gets this mask
    return known


def headkv_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Computes the attention of one layer, as transformers calls it.

    Args:
        module: the attention module; nothing is stored on it.
        query: `[batch, query_head, query, head_dim]`, after RoPE.
        key: `[batch, kv_head, token, head_dim]`, after RoPE; carries its cache layer, if any.
        value: `[batch, kv_head, token, value_dim]`.
        attention_mask: `[batch, token]` or None, from `headkv_mask`.
        scaling: factor of the logits.
        dropout: must be 0.
        sliding_window: tokens that a query may look back, itself included.
        softcap: soft cap of the logits.

    Returns:
        `[batch, query, query_head, value_dim]` and None for the weights, which are never formed.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(key, "headkv_layer", None)
    if layer is not None and layer.seen > query.shape[2]:
        if query.shape[2] > 1 and layer.unpadded:
            check_positions(kwargs.get("position_ids"), layer.seen)
        output = layer.attend(query, key, value, scaling, softcap)
    else:
        _refuse(module, "dropout", dropout > 0)
        _refuse(module, "output_attentions=True", bool(kwargs.get("output_attentions")))
        _refuse(module, "attention sinks", kwargs.get("s_aux") is not None)
        check_mask(attention_mask, query.shape[0], key.shape[2], layer is not None)
        padding = left_padding(attention_mask, query.shape[0])
        if layer is not None:
            _refuse(
                module,
                "another sliding window than its config says",
                sliding_window not in (None, layer.plan.window),
            )
            sliding_window = layer.plan.window
        dropped = 0 if attention_mask is None else attention_mask.shape[1] - key.shape[2]
        here = [pad - dropped for pad in padding]
        output = causal_attention(query, key, value, scaling, here, softcap, sliding_window)
        if layer is not None:
            layer.finish_prefill(module, query, key, value, padding, scaling, softcap)
    output = output.transpose(1, 2)
    return output if output.shape[1] == 1 else output.contiguous(), None


def _refuse(module: nn.Module, what: str, present: bool) -> None:
    """Raises `UserError` for what would otherwise be silently wrong."""
    if present:
        raise UserError(
            f"{type(module).__name__} uses {what}",
            allowed="causal attention, sliding windows and soft caps",
            do='use another model, or attn_implementation="sdpa" without compression',
        )


AttentionInterface.register(NAME, headkv_attention)
AttentionMaskInterface.register(NAME, headkv_mask)
