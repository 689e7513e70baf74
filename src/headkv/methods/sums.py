"""Attention added up, smoothed and joined: tensors in, tensors out.

Nothing here forms a matrix of all queries and all tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional

from headkv.kernels.dense import soft_cap

# Weights that are formed at a time: on a CPU those of one KV head stay in its cache.
_ROOM = {"cpu": 3 * 2**18}
_AMPLE = 2**26
_PIECE = 512  # values that are projected at a time: on a CPU what they become stays in its cache


def causal_weights(
    queries: Tensor,
    keys: Tensor,
    scaling: float,
    softcap: float | None = None,
    absent: Tensor | None = None,
) -> Tensor:
    """Attention of the last queries of a text, in float32; keys are not repeated for groups.

    Args:
        queries: consecutive ones, the last of which is the last key's, `[query_head, query, dim]`.
        keys: `[kv_head, token, dim]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits.
        absent: rows that are no tokens, bool `[kv_head, token]`; None: none are.

    Returns:
        float32 `[query_head, query, token]`.
    """
    heads, count, dim = queries.shape
    rows = queries.reshape(len(keys), -1, dim).float() * scaling
    logits = torch.bmm(rows, keys.float().transpose(1, 2)).view(heads, count, -1)
    logits = soft_cap(logits, softcap)
    if absent is not None:
        hidden = absent.repeat_interleave(heads // len(keys), dim=0)
        logits.masked_fill_(hidden[:, None], float("-inf"))
    future = torch.ones(count, count, dtype=torch.bool, device=logits.device).triu(1)
    logits[:, :, logits.shape[2] - count :].masked_fill_(future, float("-inf"))
    return logits.softmax(dim=-1)


@torch.no_grad()
def accumulated_attention(
    queries: Tensor, keys: Tensor, scaling: float, softcap: float | None = None
) -> Tensor:
    """Attention that all queries of a text pay to each token, summed; arguments as above.

    Returns:
        float32 `[query_head, token]`.
    """
    heads, tokens, dim = queries.shape
    group = heads // len(keys)
    total = torch.zeros(heads, tokens, dtype=torch.float32, device=keys.device)
    chunk = max(_ROOM.get(keys.device.type, _AMPLE) // max(group * tokens, 1), 16)
    chunk = min(chunk, max(tokens, 1))
    logits, weights = total.new_empty(2, group * chunk * tokens)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=keys.device).triu(1)
    ones = total.new_ones(group, 1, chunk)
    for own, mine, paid in zip(
        queries.split(group), keys.float().mT, total.split(group), strict=True
    ):
        for first in range(0, tokens, chunk):
            rows = own[:, first : first + chunk].float() * scaling
            end = first + rows.shape[1]
            shape = group * rows.shape[1], end
            here, there = (each[: shape[0] * end].view(shape) for each in (logits, weights))
            capped = soft_cap(torch.mm(rows.reshape(-1, dim), mine[:, :end], out=here), softcap)
            capped = capped.view(group, -1, end)
            later = future[: capped.shape[1], : capped.shape[1]]
            capped[:, :, first:].masked_fill_(later, float("-inf"))
            soft = torch.softmax(capped, -1, out=there.view_as(capped))
            paid[:, :end] += torch.bmm(ones[:, :, : soft.shape[1]], soft)[:, 0]
    return total


@torch.no_grad()
def noncausal_attention(queries: Tensor, keys: Tensor, chunk: int) -> Tensor:
    """Attention within chunks of a text, neither masked nor scaled, summed over a chunk's queries.

    Args:
        queries: `[query_head, token, dim]`.
        keys: `[kv_head, token, dim]`.
        chunk: tokens that see each other; the last chunk may be shorter.

    Returns:
        float32 `[query_head, token]`.
    """
    if not queries.shape[1]:
        return torch.zeros(len(queries), 0, dtype=torch.float32, device=keys.device)
    heads, tokens, dim = queries.shape
    sums = torch.empty(heads, tokens, dtype=torch.float32, device=keys.device)
    # The same memory for every chunk; a KV head at a time, so that a CPU's cache holds it.
    group = heads // len(keys)
    logits, weights = sums.new_empty(2, group * chunk * chunk)
    for own, mine, paid in zip(
        queries.split(group), keys.float().mT, sums.split(group), strict=True
    ):
        for first in range(0, tokens, chunk):
            here = slice(first, first + chunk)
            rows, columns = own[:, here].float().reshape(-1, dim), mine[:, here]
            shape = len(rows), columns.shape[1]
            filled, soft = (each[: shape[0] * shape[1]].view(shape) for each in (logits, weights))
            torch.softmax(torch.mm(rows, columns, out=filled), -1, out=soft)
            torch.sum(soft.view(group, -1, shape[1]), 1, out=paid[:, here])
    return sums


def projected_norms(values: Tensor, parts: Tensor, order: int) -> Tensor:
    """Norms of values behind the output projection of each query head.

    Args:
        values: `[kv_head, token, value_dim]`.
        parts: of the output projection, `[query_head, value_dim, hidden]`.
        order: 1 or 2, of the norm.

    Returns:
        float32 `[query_head, token]`.
    """
    parts, group = parts.float(), len(parts) // len(values)
    norms = torch.empty(len(parts), values.shape[1], device=values.device)
    for first in range(0, values.shape[1], _PIECE):
        here = slice(first, first + _PIECE)
        for head, part in enumerate(parts):
            piece = values[head // group, here].float()
            if order == 1:
                norms[head, here] = (piece @ part).abs_().sum(dim=-1)
            else:  # without the many dimensions of the projection
                squares = ((piece @ (part @ part.T)) * piece).sum(dim=-1)
                norms[head, here] = squares.clamp(min=0).sqrt()
    return norms


def projected_norms_at(values: Tensor, parts: Tensor, places: Tensor) -> Tensor:
    """Norms of order 1 of some values of each stored head, averaged over its query heads.

    Args:
        values: see `projected_norms`.
        parts: see `projected_norms`.
        places: of the tokens, int64 `[stored_head, place]`.

    Returns:
        float32 `[stored_head, place]`.
    """
    stored = len(places)
    kv_head = torch.arange(stored, device=places.device) * len(values) // stored
    rows = values[kv_head[:, None], places]
    own = parts.unflatten(0, (stored, -1))
    norms = [projected_norms(rows[head : head + 1], own[head], 1) for head in range(stored)]
    return torch.stack([each.mean(dim=0) for each in norms])


def pool(scores: Tensor, kernel_size: int, pooling: str) -> Tensor:
    """Smooths scores along tokens, same length out: neighbours of a needed token are needed too.

    Args:
        scores: `[head, token]`.
        kernel_size: odd width; 1 changes nothing.
        pooling: `max` or `avg`.
    """
    pooler = functional.max_pool1d if pooling == "max" else functional.avg_pool1d
    return pooler(scores[None], kernel_size, stride=1, padding=kernel_size // 2)[0]


def reduce_groups(scores: Tensor, stored_heads: int, how: str) -> Tensor:
    """One row of scores for each stored head; query head h belongs to KV head `h // group`.

    Args:
        scores: `[query_head, token]`.
        stored_heads: query heads or KV heads.
        how: `mean`, `max` or `sum`.
    """
    return joined(scores.view(stored_heads, -1, scores.shape[-1]), 1, how)


def joined(values: Tensor, dim: int, how: str) -> Tensor:
    """Values joined along a dimension by `mean`, `max` or `sum`."""
    if how == "max":
        return values.amax(dim=dim)
    return values.mean(dim=dim) if how == "mean" else values.sum(dim=dim)
