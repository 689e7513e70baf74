"""Ragged attention the slow and obvious way: pad, mask, softmax in float32.

The other backends are tested against it; no run uses it unless told to.
"""

import torch
from torch import Tensor

from headkv.kernels.ragged import Ragged


def attend(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends each segment, padded to the longest and masked, in float32.

    Args:
        query: `[batch, query_head, query, head_dim]`; query head h reads stored head `h // group`.
        prefix: the compressed prompt.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.

    Returns:
        `[batch, query_head, query, value_dim]` in the query's dtype, and the log-sum-exp of the
        logits, float32 `[batch, query_head, query]`.
    """
    batch, query_heads, length, _ = query.shape
    heads = prefix.counts.shape[1]
    longest = int(prefix.counts.max())
    keys = query.new_zeros(batch * heads, longest, prefix.keys.shape[1], dtype=torch.float32)
    values = query.new_zeros(batch * heads, longest, prefix.values.shape[1], dtype=torch.float32)
    for segment, count in enumerate(prefix.lengths):
        start = prefix.bounds[segment]
        keys[segment, :count] = prefix.keys[start : start + count].float()
        values[segment, :count] = prefix.values[start : start + count].float()
    rows = query.reshape(batch * heads, -1, query.shape[-1]).float()
    logits = rows @ keys.transpose(1, 2) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if prefix.bias is not None:
        for segment, count in enumerate(prefix.lengths):
            start = prefix.bounds[segment]
            logits[segment, :, :count] += prefix.bias[start : start + count]
    counts = prefix.counts.flatten().to(query.device)
    absent = torch.arange(longest, device=query.device) >= counts[:, None]
    logits = logits.masked_fill(absent[:, None], float("-inf"))
    output = logits.softmax(-1) @ values
    return (
        output.view(batch, query_heads, length, -1).to(query.dtype),
        logits.logsumexp(-1).view(batch, query_heads, length),
    )
