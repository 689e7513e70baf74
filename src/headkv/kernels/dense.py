"""Attention over equal-length keys: the prompt itself, and the generated tail."""

import torch
from torch import Tensor
from torch.nn import functional

_CPU_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_CHUNK_LOGITS = 2**25  # formed at a time: 128 MiB in float32


def soft_cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Returns attention logits squeezed into (-softcap, softcap), as Gemma 2 does; None: as is.

    Args:
        logits: of any shape.
        softcap: the model's soft cap, if it has one.
    """
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def attention_with_lse(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    softcap: float | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes softmax attention and also returns the log-sum-exp of its logits.

    Args:
        query: `[batch, head, query, head_dim]`.
        keys: `[batch, head, token, head_dim]`.
        values: `[batch, head, token, value_dim]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits.
        mask: added to the logits behind the soft cap, `[query, token]` or of four dimensions that
            broadcast; no row may be all -inf.

    Returns:
        `[batch, head, query, value_dim]` in the query's dtype and float32 `[batch, head, query]`.
    """
    on_cpu = query.device.type == "cpu" and keys.shape[-1] == values.shape[-1]
    if _CPU_FLASH is not None and on_cpu and softcap is None:
        output, lse = _CPU_FLASH(query, keys, values, 0.0, False, attn_mask=mask, scale=scaling)
        return output, lse
    logits = soft_cap(query.float() @ keys.float().transpose(-1, -2) * scaling, softcap)
    if mask is not None:
        logits = logits + mask.float()
    lse = logits.logsumexp(-1)
    output = torch.exp(logits - lse[..., None]) @ values.float()
    return output.to(query.dtype), lse


def causal_tail(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    softcap: float | None = None,
    window: int | None = None,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attends the latest tokens' queries over keys that end with their own.

    Works through the queries in chunks, so that no matrix is `[token, token]`; keys are not
    repeated for grouped queries.

    Args:
        query: `[batch, query_head, query, head_dim]`.
        keys: `[batch, kv_head, tail, head_dim]`, `tail >= query`.
        values: `[batch, kv_head, tail, value_dim]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits.
        window: tokens that a query may look back, itself included; None: all.
        seen: added to the logits, `[batch, query, tail]`, 0 or -inf, instead of causality.

    Returns:
        As `attention_with_lse`, `[batch, query_head, query, ...]`.
    """
    batch, query_heads, length, head_dim = query.shape
    heads, tail = keys.shape[1:3]
    grouped = query.reshape(batch, heads, -1, length, head_dim)
    if seen is not None:
        everyone = seen.repeat(1, grouped.shape[2], 1)[:, None]
        output, lse = attention_with_lse(
            grouped.flatten(2, 3), keys, values, scaling, softcap, everyone
        )
        return output.reshape(batch, query_heads, length, -1), lse.reshape(query.shape[:3])
    chunk = max(_CHUNK_LOGITS // (batch * query_heads * tail), 1)
    outputs, sums = [], []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        stop = tail - length + end
        first = 0 if window is None else max(stop - (end - start) - window + 1, 0)
        rows = grouped[:, :, :, start:end].reshape(batch, heads, -1, head_dim)
        mask = _causal_mask(query, end - start, stop - first, window)
        output, lse = attention_with_lse(
            rows,
            keys[:, :, first:stop],
            values[:, :, first:stop],
            scaling,
            softcap,
            None if mask is None else mask.repeat(grouped.shape[2], 1),
        )
        outputs.append(output.reshape(batch, query_heads, end - start, -1))
        sums.append(lse.reshape(batch, query_heads, end - start))
    return torch.cat(outputs, 2), torch.cat(sums, 2)


def _causal_mask(like: Tensor, queries: int, tokens: int, window: int | None) -> Tensor | None:
    """What to add to the logits of the last `queries` of `tokens`; None if nothing is hidden."""
    if queries == 1 and (window is None or tokens <= window):
        return None
    mask = like.new_full((queries, tokens), float("-inf"))
    hidden = mask.triu(tokens - queries + 1)
    if window is not None:
        hidden = hidden + mask.tril(tokens - queries - window)
    # triu and tril leave zeros elsewhere, and -inf * 0 never arises.
    return hidden


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Joins the attention over each of two sets of keys to the attention over both, exactly.

    Args:
        first: output `[batch, head, query, value_dim]` and log-sum-exp `[batch, head, query]` over
            the first set of keys.
        second: the same over the second set.

    Returns:
        `[batch, head, query, value_dim]`, in the dtype of the first output.
    """
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
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Computes causal attention of the last tokens; no `[token, token]` matrix is formed.

    Through SDPA where it does what is asked, in chunks elsewhere.

    Args:
        query: of the last tokens, `[batch, query_head, query, head_dim]`.
        keys: `[batch, kv_head, token, head_dim]`.
        values: `[batch, kv_head, token, value_dim]`.
        scaling: factor of the logits.
        padding: keys of left padding of each sequence, or None. Each padded sequence is attended
            on its own, so that a batch computes what its rows compute alone.
        softcap: soft cap of the logits.
        window: tokens that a query may look back, itself included; None: all.

    Returns:
        `[batch, query_head, query, value_dim]`; zero at padding.
    """
    if padding is not None and any(pad > 0 for pad in padding):
        output = query.new_zeros(*query.shape[:3], values.shape[-1])
        before = keys.shape[2] - query.shape[2]
        for row, pad in enumerate(padding):
            start, new = max(pad, 0), max(pad - before, 0)
            output[row, None, :, new:] = causal_attention(
                query[row, None, :, new:],
                keys[row, None, :, start:],
                values[row, None, :, start:],
                scaling,
                softcap=softcap,
                window=window,
            )
        return output
    narrow = window is not None and keys.shape[2] > window
    if softcap is None and not narrow and query.shape[2] == keys.shape[2]:
        return functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scaling, enable_gqa=True
        )
    return causal_tail(query, keys, values, scaling, softcap, window)[0]
