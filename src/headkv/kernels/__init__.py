"""Attention of new queries over a ragged prefix: one signature, one backend per kind of machine.

`attend(query, prefix, scaling, softcap)` returns `(output, lse)`: float `[batch, query_head,
query, value_dim]` and the log-sum-exp of the logits, float32 `[batch, query_head, query]`, with
which `join` adds the generated tail exactly.
"""

from headkv.kernels.dense import causal_attention, causal_tail, join, soft_cap
from headkv.kernels.dispatch import BACKENDS, attend, available
from headkv.kernels.single_token import attend_token, serves
from headkv.kernels.tiled import Tiled, stack

__all__ = [
    "BACKENDS",
    "Tiled",
    "attend",
    "attend_token",
    "available",
    "causal_attention",
    "causal_tail",
    "join",
    "serves",
    "soft_cap",
    "stack",
]
