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

from headkv.kernels.ragged import Ragged
from headkv.kernels.tiled import Tiled

_LIMIT = 32_768  # logits of a step; beyond, they cost more than the calls they save
_NOTHING = torch.zeros(1, 1, 1)


def serves(query: Tensor, prefix: Ragged | Tiled, softcap: float | None) -> bool:
    """Says whether `attend_token` can attend single tokens and is worth it, by the first of them.

    The answer holds for the whole prefix. It is no when another backend was asked for.

    Args:
        query: `[batch, query_head, 1, head_dim]`.
        prefix: the compressed prompt.
        softcap: soft cap of the logits; with one the answer is no.
    """
    return (
        isinstance(prefix, Ragged)
        and query.device.type == "cpu"
        and "HEADKV_BACKEND" not in os.environ
        and query.dtype == torch.float32
        and softcap is None
        and query.shape[0] == 1
        and query.shape[1] * len(prefix.keys) <= _LIMIT
    )


def attend_token(
    query: Tensor, prefix: Ragged, keys: Tensor, values: Tensor, scaling: float
) -> Tensor:
    """Attends one token of one sequence over prefix and tail.

    Args:
        query: `[1, query_head, 1, head_dim]`, float32.
        prefix: of one sequence.
        keys: the tail, `[1, kv_head, tail, head_dim]`.
        values: `[1, kv_head, tail, value_dim]`.
        scaling: factor of the logits.

    Returns:
        `[1, query_head, 1, value_dim]`.
    """
    kv_heads, tail, head_dim = keys.shape[1:]
    rows = query.reshape(kv_heads, -1, head_dim)
    # baddbmm with beta=0 is bmm with a factor: `_NOTHING` is not read.
    recent = torch.baddbmm(_NOTHING, rows, keys[0].mT, beta=0, alpha=scaling)
    if prefix.uniform is not None:
        past_keys, past_values = prefix.blocks
        by_head = rows if len(past_keys) == kv_heads else rows.view(len(past_keys), -1, head_dim)
        logits = torch.baddbmm(_NOTHING, by_head, past_keys, beta=0, alpha=scaling)
        entries = logits.shape[2]
        if prefix.bias is not None:
            logits += prefix.bias.view(len(past_keys), 1, entries)
        weights = torch.cat((logits, recent.view(*logits.shape[:2], tail)), 2).softmax(2)
        output = torch.bmm(weights.narrow(2, 0, entries), past_values)
    else:
        flat, entries = rows.view(-1, head_dim), len(prefix.keys)
        logits = torch.addmm(_NOTHING[0], flat, prefix.keys.T, beta=0, alpha=scaling)
        if prefix.bias is not None:
            logits += prefix.bias
        other = prefix.owner != _stored_head(prefix.counts.shape[1], len(flat))
        logits.masked_fill_(other, float("-inf"))
        weights = torch.cat((logits, recent.view(-1, tail)), 1).softmax(1)
        output = torch.mm(weights.narrow(1, 0, entries), prefix.values)
    recent = weights.narrow(-1, entries, tail).view(kv_heads, -1, tail)
    output = output.view(kv_heads, -1, output.shape[-1]).baddbmm_(recent, values[0])
    return output.view(1, -1, 1, output.shape[-1])


@lru_cache(maxsize=64)
def _stored_head(heads: int, query_heads: int) -> Tensor:
    """The stored head that each query head reads, uint8 `[query_head, 1]`."""
    return torch.arange(heads, dtype=torch.uint8).repeat_interleave(query_heads // heads)[:, None]
