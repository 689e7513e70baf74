"""One token's attention over prefix and tail in one softmax, for the CPU, where calls are dear.

A decode step of a small model spends its time on the number of operations, not on what they compute
(the weights push everything else out of the processor's caches). So there is one matrix product
for the prefix's logits, one for the tail's, one softmax over both, and one product each for the
values: 3 ms of attention a token of SmolLM2 where prefix and tail apart, joined by their
log-sum-exp, take 8. Ragged heads are multiplied with all entries of the sequence, and those of
other heads masked out.
"""

import os
from functools import lru_cache

import torch
from torch import Tensor

from headkv.ragged import Ragged

_LIMIT = 32_768  # logits of a step; beyond, they cost more than the calls they save


def serves(query: Tensor, prefix: Ragged, softcap: float | None) -> bool:
    """Whether `attend_token` can do it, is worth it, and no other backend was asked for."""
    return (
        query.device.type == "cpu"
        and "HEADKV_BACKEND" not in os.environ
        and query.dtype == torch.float32
        and softcap is None
        and query.shape[0] == query.shape[2] == 1
        and query.shape[1] * len(prefix.keys) <= _LIMIT
    )


def attend_token(
    query: Tensor, prefix: Ragged, keys: Tensor, values: Tensor, scaling: float
) -> Tensor:
    """Attention of one token of one sequence.

    Args:
        query: `[1, query_head, 1, head_dim]`, float32.
        prefix: of one sequence.
        keys: the tail, `[1, kv_head, tail, head_dim]`.
        values: `[1, kv_head, tail, value_dim]`.
        scaling: factor of the logits.

    Returns:
        `[1, query_head, 1, value_dim]`.
    """
    query_heads, kv_heads, tail = query.shape[1], keys.shape[1], keys.shape[2]
    heads, count = prefix.counts.shape[1], prefix.uniform
    rows = query.reshape(query_heads, -1) * scaling
    recent = torch.bmm(rows.view(kv_heads, -1, rows.shape[1]), keys[0].mT).view(query_heads, -1)
    if count is not None:
        by_head = rows.view(heads, -1, rows.shape[1])
        logits = torch.bmm(by_head, prefix.keys.view(heads, count, -1).mT).view(query_heads, -1)
    else:
        logits = torch.mm(rows, prefix.keys.T)
        logits.masked_fill_(prefix.owner != _stored_head(heads, query_heads), float("-inf"))
    weights = torch.cat((logits, recent), 1).softmax(1)
    past, recent = weights.split((logits.shape[1], tail), 1)
    if count is not None:
        output = torch.bmm(past.view(heads, -1, count), prefix.values.view(heads, count, -1))
        output = output.view(query_heads, -1)
    else:
        output = torch.mm(past, prefix.values)
    output.view(kv_heads, -1, output.shape[1]).baddbmm_(recent.view(kv_heads, -1, tail), values[0])
    return output.view(1, query_heads, 1, -1)


@lru_cache(maxsize=64)
def _stored_head(heads: int, query_heads: int) -> Tensor:
    """The stored head that each query head reads, uint8 `[query_head, 1]`."""
    return torch.arange(heads, dtype=torch.uint8).repeat_interleave(query_heads // heads)[:, None]
