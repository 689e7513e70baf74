"""Attention over entries of 8, 4 and 2 bits in Triton: codes become numbers in registers.

As `headkv.kernels.triton_decode`, with groups of 64 entries for blocks: what leaves the GPU's
memory is codes and scales. See `headkv.kernels.quantised` for the layout.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headkv.kernels.packed import GROUP
from headkv.kernels.quantised import Quantised
from headkv.kernels.ragged import Tiles
from headkv.kernels.triton_decode import _MERGED_TILES, _capped, _merge_tiles

TILE = 4  # groups of a program


@triton.jit
def _unpacked(codes: tl.tensor, SHARE: tl.constexpr) -> tl.tensor:
    """Bytes `[entry, byte]` as codes `[entry, byte * SHARE]`, in the order of channels."""
    if SHARE == 1:
        return codes.to(tl.float32)
    if SHARE == 2:
        return tl.interleave((codes & 15).to(tl.float32), (codes >> 4).to(tl.float32))
    even = tl.interleave((codes & 3).to(tl.float32), ((codes >> 4) & 3).to(tl.float32))
    odd = tl.interleave(((codes >> 2) & 3).to(tl.float32), (codes >> 6).to(tl.float32))
    return tl.interleave(even, odd)


@triton.jit
def _attend_tile(
    query: tl.tensor,
    key_codes: tl.tensor,
    key_scale: tl.tensor,
    key_zero: tl.tensor,
    value_codes: tl.tensor,
    value_scale: tl.tensor,
    value_zero: tl.tensor,
    bias: tl.tensor | None,
    tiles: tl.tensor,
    output: tl.tensor,
    lse: tl.tensor,
    scaling: float,
    softcap: float | None,
    rows: int,
    row_blocks: int,
    SHARE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    ENTRIES: tl.constexpr,
) -> None:
    """One tile against a block of its segment's query rows.

    Args:
        query: `[segment, row, HEAD_DIM]`.
        key_codes: uint8 `[group, ENTRIES, HEAD_DIM / SHARE]`.
        key_scale: float16 `[group, HEAD_DIM]`.
        key_zero: likewise.
        value_codes: uint8 `[group, ENTRIES, VALUE_DIM / SHARE]`.
        value_scale: float16 `[group, ENTRIES, BLOCKS]`.
        value_zero: likewise.
        bias: float32 `[group, ENTRIES]`, added to the logits; None compiles it away.
        tiles: int32 `[tile, 3]`: segment, first group, groups.
        output: written, float32 `[tile, row, VALUE_DIM]`, each tile's own softmax.
        lse: written, float32 `[tile, row]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits; None compiles it away.
        rows: query rows of a segment.
        row_blocks: programs of a tile.
        SHARE: codes of a byte.
        HEAD_DIM: width of queries and keys.
        VALUE_DIM: width of values.
        HEAD_PAD: the next power of two, at least 16.
        VALUE_PAD: likewise.
        BLOCKS: scales of an entry's values.
        ROW_BLOCK: query rows of a program, at least 16.
        ENTRIES: of a group.
    """
    program = tl.program_id(0)
    tile = (program // row_blocks).to(tl.int64)
    row = (program % row_blocks) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    segment = tl.load(tiles + tile * 3).to(tl.int64)
    first = tl.load(tiles + tile * 3 + 1).to(tl.int64)
    groups = tl.load(tiles + tile * 3 + 2)
    column, value_column = tl.arange(0, HEAD_PAD), tl.arange(0, VALUE_PAD)
    byte, value_byte = tl.arange(0, HEAD_PAD // SHARE), tl.arange(0, VALUE_PAD // SHARE)
    entry = tl.arange(0, ENTRIES)
    real_row, real_column, real_value = row < rows, column < HEAD_DIM, value_column < VALUE_DIM
    asked = tl.load(
        query + segment * rows * HEAD_DIM + row[:, None] * HEAD_DIM + column[None, :],
        mask=real_row[:, None] & real_column[None, :],
        other=0.0,
    ).to(tl.float32)
    best = tl.full([ROW_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([ROW_BLOCK], tl.float32)
    mixed = tl.zeros([ROW_BLOCK, VALUE_PAD], tl.float32)
    for step in range(0, groups):
        group = first + step
        place = group * ENTRIES + entry
        codes = tl.load(
            key_codes + place[:, None] * (HEAD_DIM // SHARE) + byte[None, :],
            mask=byte[None, :] < HEAD_DIM // SHARE,
            other=0,
        )
        scale = tl.load(key_scale + group * HEAD_DIM + column, mask=real_column, other=0.0)
        zero = tl.load(key_zero + group * HEAD_DIM + column, mask=real_column, other=0.0)
        key = _unpacked(codes, SHARE) * scale.to(tl.float32)[None, :]
        key += zero.to(tl.float32)[None, :]
        logits = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
        if softcap is not None:
            logits = _capped(logits, softcap)
        if bias is not None:
            logits += tl.load(bias + place)[None, :]
        higher = tl.maximum(best, tl.max(logits, 1))
        weight = tl.exp(logits - higher[:, None])
        fade = tl.exp(best - higher)
        codes = tl.load(
            value_codes + place[:, None] * (VALUE_DIM // SHARE) + value_byte[None, :],
            mask=value_byte[None, :] < VALUE_DIM // SHARE,
            other=0,
        )
        block = place[:, None] * BLOCKS + (value_column // (VALUE_DIM // BLOCKS))[None, :]
        inside = real_value[None, :] & (entry[:, None] >= 0)
        scale = tl.load(value_scale + block, mask=inside, other=0.0).to(tl.float32)
        zero = tl.load(value_zero + block, mask=inside, other=0.0).to(tl.float32)
        value = _unpacked(codes, SHARE) * scale + zero
        total = total * fade + tl.sum(weight, 1)
        mixed = tl.dot(weight, value, acc=mixed * fade[:, None], input_precision="ieee")
        best = higher
    tl.store(
        output + tile * rows * VALUE_DIM + row[:, None] * VALUE_DIM + value_column[None, :],
        mixed / total[:, None],
        mask=real_row[:, None] & real_value[None, :],
    )
    tl.store(lse + tile * rows + row, best + tl.log(total), mask=real_row)


def attend_groups(
    query: Tensor, prefix: Quantised, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """As `headkv.kernels.groups.attend_groups`, in Triton."""
    asked = prefix.rows_of(query).contiguous()
    segments, rows, head_dim = asked.shape
    keys, values = prefix.keys, prefix.values
    device = keys.codes.device
    work = prefix.worked_out("tiles", lambda: Tiles.of(prefix.groups, TILE, device))
    tiles, width = len(work.table), prefix.value_dim
    parts = query.new_empty(tiles, rows, width, dtype=torch.float32)
    parts_lse = query.new_empty(tiles, rows, dtype=torch.float32)
    output = query.new_empty(segments, rows, width, dtype=torch.float32)
    lse = query.new_empty(segments, rows, dtype=torch.float32)
    row_block = min(max(triton.next_power_of_2(rows), 16), 64)
    row_blocks = triton.cdiv(rows, row_block)
    value_pad = max(triton.next_power_of_2(width), 16)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _attend_tile[(tiles * row_blocks,)](
            asked,
            keys.codes,
            keys.scale,
            keys.zero,
            values.codes,
            values.scale,
            values.zero,
            prefix.grouped_bias,
            work.table,
            parts,
            parts_lse,
            scaling,
            softcap,
            rows,
            row_blocks,
            SHARE=keys.share,
            HEAD_DIM=head_dim,
            VALUE_DIM=width,
            HEAD_PAD=max(triton.next_power_of_2(head_dim), 16),
            VALUE_PAD=value_pad,
            BLOCKS=values.scale.shape[2],
            ROW_BLOCK=row_block,
            ENTRIES=GROUP,
            num_warps=4,
        )
        _merge_tiles[(segments * rows,)](
            parts,
            parts_lse,
            work.starts,
            output,
            lse,
            rows,
            VALUE_DIM=width,
            VALUE_PAD=triton.next_power_of_2(width),
            BLOCK=_MERGED_TILES,
        )
    empty = (prefix.groups == 0).to(query.device)[:, None]
    return output.masked_fill(empty[..., None], 0.0), lse.masked_fill(empty, float("-inf"))
