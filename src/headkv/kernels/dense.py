"""Attention over equal-length keys: the prompt itself, and the generated tail."""

import torch
from torch import Tensor
from torch.nn import functional

_CPU_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_TAIL_CHUNK = 1024  # queries at a time, so that no mask is [prompt, prompt]


def attention_with_lse(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    softcap: float | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention that also returns the log-sum-exp of its logits.

    Args:
        query: `[batch, head, query, head_dim]`.
        keys: `[batch, head, token, head_dim]`.
        values: `[batch, head, token, value_dim]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits.
        mask: added to the logits, `[query, token]`; no row may be all -inf.

    Returns:
        `[batch, head, query, value_dim]` in the query's dtype and float32 `[batch, head, query]`.
    """
    on_cpu = query.device.type == "cpu" and keys.shape[-1] == values.shape[-1]
    if _CPU_FLASH is not None and on_cpu and softcap is None:
        output, lse = _CPU_FLASH(query, keys, values, 0.0, False, attn_mask=mask, scale=scaling)
        return output, lse
    logits = query.float() @ keys.float().transpose(-1, -2) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mask is not None:
        logits = logits + mask.float()
    lse = logits.logsumexp(-1)
    output = torch.exp(logits - lse[..., None]) @ values.float()
    return output.to(query.dtype), lse


def causal_tail(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The latest tokens' queries over the tail, which ends with their own keys.

    Args:
        query: `[batch, query_head, query, head_dim]`.
        keys: `[batch, kv_head, tail, head_dim]`, `tail >= query`.
        values: `[batch, kv_head, tail, value_dim]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits.

    Returns:
        As `attention_with_lse`, `[batch, query_head, query, ...]`.
    """
    batch, query_heads, length, head_dim = query.shape
    heads, tail = keys.shape[1:3]
    if length == 1:
        rows = query.reshape(batch, heads, -1, head_dim)
        output, lse = attention_with_lse(rows, keys, values, scaling, softcap)
        return output.reshape(batch, query_heads, 1, -1), lse.reshape(batch, query_heads, 1)
    group = query_heads // heads
    keys = keys.repeat_interleave(group, 1)
    values = values.repeat_interleave(group, 1)
    parts = []
    for start in range(0, length, _TAIL_CHUNK):
        end = min(start + _TAIL_CHUNK, length)
        seen = tail - length + end
        mask = query.new_full((end - start, seen), float("-inf")).triu(seen - (end - start) + 1)
        parts.append(
            attention_with_lse(
                query[:, :, start:end], keys[:, :, :seen], values[:, :, :seen],
                scaling, softcap, mask,
            )
        )  # fmt: skip
    return torch.cat([output for output, _ in parts], 2), torch.cat([lse for _, lse in parts], 2)


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two sets of keys from the attention over each, by their log-sum-exp."""
    (first_output, first_lse), (second_output, second_lse) = first, second
    share = torch.sigmoid(first_lse - second_lse)[..., None]
    joined = first_output.float() * share + second_output.float() * (1 - share)
    return joined.to(first_output.dtype)


def causal_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    padding: list[int] | None = None,
) -> Tensor:
    """Causal attention through SDPA; no `[token, token]` matrix is formed.

    Args:
        query: of the last tokens, `[batch, query_head, query, head_dim]`.
        keys: `[batch, kv_head, token, head_dim]`.
        values: `[batch, kv_head, token, value_dim]`.
        scaling: factor of the logits.
        padding: tokens of left padding of each sequence, or None. Each padded sequence is attended
            on its own, so that a batch computes what its rows compute alone.

    Returns:
        `[batch, query_head, query, value_dim]`; zero at padding.
    """
    if padding is not None and any(padding):
        output = query.new_zeros(*query.shape[:3], values.shape[-1])
        for row, pad in enumerate(padding):
            new = max(pad - (keys.shape[2] - query.shape[2]), 0)
            here, there = (slice(row, row + 1), slice(None)), slice(pad, None)
            output[row, :, new:] = causal_attention(
                query[here][:, :, new:], keys[here][:, :, there], values[here][:, :, there], scaling
            )[0]
        return output
    if query.shape[2] < keys.shape[2]:
        return causal_tail(query, keys, values, scaling)[0]
    return functional.scaled_dot_product_attention(
        query, keys, values, is_causal=True, scale=scaling, enable_gqa=True
    )
