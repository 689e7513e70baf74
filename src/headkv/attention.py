"""The one attention function, for every model that transformers can route through it.

Registered as `attn_implementation="headkv"`. Three cases: no headkv cache (plain causal
attention), the prompt (plain causal attention, then compression), and tokens after it, which the
cache layer attends, as it knows what it holds.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from headkv.errors import UserError
from headkv.kernels import causal_attention

NAME = "headkv"


def headkv_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Hands on the padding mask, `[batch, token]`; causality needs no matrix."""
    return attention_mask


def left_padding(mask: Tensor | None, batch: int) -> list[int]:
    """Tokens of left padding of each sequence.

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
        if not bool((seen.long().diff(dim=1) >= 0).all()) or max(known) == mask.shape[1]:
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
    """Attention of one layer, as transformers calls it.

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
    _refuse_unsupported(module, dropout, sliding_window, softcap, key, kwargs)
    if layer is not None and layer.seen > query.shape[2]:
        output = layer.attend(query, key, value, scaling)
    else:
        padding = left_padding(attention_mask, query.shape[0])
        output = causal_attention(query, key, value, scaling, padding)
        if layer is not None:
            layer.finish_prefill(query, key, value, padding, scaling, softcap)
    return output.transpose(1, 2).contiguous(), None


def _refuse_unsupported(
    module: nn.Module,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
    key: Tensor,
    extra: dict[str, Any],
) -> None:
    """Raises `UserError` for what would otherwise be silently wrong."""
    wanted = {
        "dropout": dropout > 0,
        "sliding window": sliding_window is not None and key.shape[2] > sliding_window,
        "logit soft cap": softcap is not None,
        "attention sinks": extra.get("s_aux") is not None,
    }
    for name, asked in wanted.items():
        if asked:
            raise UserError(
                f"{type(module).__name__} uses {name}",
                allowed="full causal attention",
                do='use another model, or attn_implementation="sdpa" without compression',
            )


AttentionInterface.register(NAME, headkv_attention)
AttentionMaskInterface.register(NAME, headkv_mask)
