"""Ragged attention in plain PyTorch, any device; what the CPU uses.

Three ways, chosen per sequence by what was measured fastest on two cores (float32, head size 64,
one decode step over one layer of 9 query heads; microseconds):

    segments               one call   block diagonal   a call per head
    3 x 128, all equal           17               25                47
    40, 300, 44                                    25                50
    9 heads, mean 128                              57               124
    300, 22000, 200                               961               614

Equal segments are a plain batched attention on a view. Ragged ones are joined into one attention
with a block-diagonal mask while that is small, as the call costs more than the masked-out work.
"""

from itertools import groupby

import torch
from torch import Tensor

from headkv.kernels.dense import attention_with_lse
from headkv.kernels.ragged import Ragged

_BLOCK_DIAGONAL_LIMIT = 32_768  # logits of a sequence up to which one masked call is faster


def attend(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends every sequence in the way that is fastest for it; any group size and query count.

    Args:
        query: `[batch, query_head, query, head_dim]`; query head h reads stored head `h // group`.
        prefix: the compressed prompt.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.

    Returns:
        `[batch, query_head, query, value_dim]` in the query's dtype, and the log-sum-exp of the
        logits, float32 `[batch, query_head, query]`.
    """
    batch, query_heads, length, head_dim = query.shape
    heads = prefix.counts.shape[1]
    group = query_heads // heads
    rows = query.reshape(batch, heads, group * length, head_dim)
    outputs, sums = [], []
    lengths = [tuple(row) for row in prefix.counts.tolist()]
    first = 0
    for segments, same in groupby(lengths):
        last = first + len(list(same))
        if len(set(segments)) == 1:
            output, lse = _equal(rows[first:last], prefix, first, segments[0], scaling, softcap)
            outputs.append(output)
            sums.append(lse)
        else:
            for index in range(first, last):
                work = sum(segments) * query_heads * length
                way = _block_diagonal if work <= _BLOCK_DIAGONAL_LIMIT else _head_by_head
                output, lse = way(rows[index], prefix, index, scaling, softcap)
                outputs.append(output)
                sums.append(lse)
        first = last
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    lse = sums[0] if len(sums) == 1 else torch.cat(sums)
    return output.reshape(batch, query_heads, length, -1), lse.reshape(batch, query_heads, length)


def _equal(
    rows: Tensor, prefix: Ragged, first: int, count: int, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Sequences whose heads all hold `count` entries: a view, no mask."""
    batch, heads = rows.shape[:2]
    start = prefix.bounds[first * heads]
    span = slice(start, start + batch * heads * count)
    keys = prefix.keys[span].view(batch, heads, count, -1)
    values = prefix.values[span].view(batch, heads, count, -1)
    mask = None if prefix.bias is None else prefix.bias[span].view(batch, heads, 1, count)
    return attention_with_lse(rows, keys, values, scaling, softcap, mask)


def _block_diagonal(
    row: Tensor, prefix: Ragged, index: int, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """All heads of a sequence against all its entries; other heads' entries are masked out."""
    heads, queries, _ = row.shape
    bounds = prefix.bounds[index * heads : (index + 1) * heads + 1]
    dtype = row.dtype if prefix.bias is None else torch.float32
    mask = row.new_full((heads, bounds[-1] - bounds[0]), float("-inf"), dtype=dtype)
    for head in range(heads):
        own = slice(bounds[head], bounds[head + 1])
        mask[head, own.start - bounds[0] : own.stop - bounds[0]] = (
            0 if prefix.bias is None else prefix.bias[own]
        )
    keys = prefix.keys[bounds[0] : bounds[-1]].expand(1, queries, -1, -1)
    values = prefix.values[bounds[0] : bounds[-1]].expand(1, queries, -1, -1)
    output, lse = attention_with_lse(
        row.transpose(0, 1)[None], keys, values, scaling, softcap, mask
    )
    return output.transpose(1, 2), lse.transpose(1, 2)


def _head_by_head(
    row: Tensor, prefix: Ragged, index: int, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """One call per head: no wasted logits, for long prefixes."""
    heads = row.shape[0]
    bounds = prefix.bounds[index * heads : (index + 1) * heads + 1]
    parts = [
        attention_with_lse(
            row[None, head, None],
            prefix.keys[None, None, bounds[head] : bounds[head + 1]],
            prefix.values[None, None, bounds[head] : bounds[head + 1]],
            scaling,
            softcap,
            None
            if prefix.bias is None
            else prefix.bias[bounds[head] : bounds[head + 1]].expand(row.shape[1], -1),
        )
        for head in range(heads)
    ]
    return torch.cat([output for output, _ in parts], 1), torch.cat([lse for _, lse in parts], 1)
