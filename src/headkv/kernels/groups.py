"""Attention over entries of 8, 4 or 2 bits a number without unpacking them all.

Scales go into the query and into the attention weights, and codes are multiplied as they are. Two
codes share a byte, `low + 16 * high`: as a number it is a sum too, so that a product with the bytes
less 16 times one with the high halves is that with the low ones. Bytes become numbers in one pass;
nothing is masked, shifted back or written out.
"""

from collections.abc import Iterator
from itertools import groupby, product

import torch
from torch import Tensor

from headkv.kernels.dense import soft_cap
from headkv.kernels.packed import GROUP, Packed
from headkv.kernels.quantised import Quantised

_BLOCK = 2**20  # numbers unpacked at a time, 4 MiB


def attend_groups(
    query: Tensor, prefix: Quantised, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends the entries in groups alone, a few groups at a time, on any device.

    Args:
        query: `[batch, query_head, query, head_dim]`; query head h reads stored head `h // group`.
        prefix: the entries.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.

    Returns:
        float32 `[segment, row, value_dim]` and log-sum-exp `[segment, row]`, -inf where a segment
        has no group.
    """
    rows = prefix.rows_of(query).float() * scaling
    segments, count, _ = rows.shape
    output = rows.new_zeros(segments, count, prefix.value_dim)
    lse = rows.new_full((segments, count), float("-inf"))
    first, start = 0, 0
    for groups, run in groupby(prefix.groups.tolist()):
        last = first + len(list(run))
        if groups:
            span = slice(start, start + groups * (last - first))
            logits = _logits(rows[first:last], prefix.keys, span)
            logits = soft_cap(logits, softcap)
            if prefix.grouped_bias is not None:
                logits = logits + prefix.grouped_bias[span][:, None]
            # `[group, row, entry]` to `[segment, row, entry of the segment]`
            logits = logits.view(last - first, groups, count, GROUP).transpose(1, 2).flatten(2)
            lse[first:last] = logits.logsumexp(-1)
            weights = logits.softmax(-1)
            output[first:last] = _mixed(weights, prefix.values, span)
            start = span.stop
        first = last
    return output, lse


def _blocks(span: slice, numbers: int) -> Iterator[slice]:
    """The span of groups in pieces of which so many numbers each are unpacked at a time."""
    step = max(_BLOCK // numbers, 1)
    for first in range(span.start, span.stop, step):
        yield slice(first, min(first + step, span.stop))


def _logits(rows: Tensor, keys: Packed, span: slice) -> Tensor:
    """Logits of segments of equally many groups, float32 `[group, row, entry]`.

    Args:
        rows: query rows of each segment, scaled, `[segment, row, head_dim]`.
        keys: of all segments.
        span: the groups of these.
    """
    count, width = rows.shape[1:]
    each = (span.stop - span.start) // len(rows)
    asked = rows.repeat_interleave(each, 0)
    offset = torch.bmm(asked, keys.zero[span].float().mT)
    asked = asked.mul_(keys.scale[span].float())
    # `[code of a byte, group, row, byte]`: what the bytes without their lowest codes count.
    planes = asked.view(len(asked), count, -1, keys.share).permute(3, 0, 1, 2).contiguous()
    if keys.share > 1:
        planes[1:] -= float(2**keys.bits) * planes[:-1].clone()
    parts = []
    for block in _blocks(span, GROUP * width):
        here = slice(block.start - span.start, block.stop - span.start)
        found = offset[here]
        for place, codes in enumerate(keys.shifted(block)):
            found = torch.baddbmm(found, planes[place, here], codes.mT)
        parts.append(found)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _mixed(weights: Tensor, values: Packed, span: slice) -> Tensor:
    """Weighted sums of the values of segments of equally many groups, `[segment, row, value_dim]`.

    Args:
        weights: `[segment, row, entry]`.
        values: of all segments.
        span: the groups of these.
    """
    segments, entries = weights.shape[0], weights.shape[2]
    scale = values.scale[span].view(segments, entries, -1).float()
    zero = values.zero[span].view(segments, entries, -1).float()
    blocks, bytes_ = scale.shape[2], values.codes.shape[2] // scale.shape[2]
    # A scale goes into the weights: `[segment, block, row, entry]`.
    scaled = weights[:, None] * scale.mT[:, :, None]
    each = entries // GROUP
    step = max(_BLOCK // (GROUP * values.codes.shape[2] * values.share * segments), 1)
    codes = values.codes[span].view(segments, each, GROUP, -1)
    sums: dict[tuple[int, int], Tensor] = {}
    for first in range(0, each, step):
        last = min(first + step, each)
        piece = codes[:, first:last].flatten(1, 2)
        part = scaled[..., first * GROUP : last * GROUP]
        for place in range(values.share):
            numbers = (piece >> (values.bits * place) if place else piece).float()
            for block in range(blocks):
                inside = numbers[..., block * bytes_ : (block + 1) * bytes_]
                mixed = torch.bmm(part[:, block], inside)
                known = sums.get((place, block))
                sums[place, block] = mixed if known is None else known.add_(mixed)
    base = float(2**values.bits)
    for place, block in product(range(values.share - 1), range(blocks)):
        sums[place, block].sub_(sums[place + 1, block], alpha=base)
    planes = [
        torch.stack([sums[place, block] for place in range(values.share)], -1).flatten(2)
        for block in range(blocks)
    ]
    offset = torch.bmm(weights, zero)
    return torch.cat([each + offset[..., i : i + 1] for i, each in enumerate(planes)], -1)
