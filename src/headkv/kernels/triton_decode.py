"""Ragged attention in Triton: the prefix is cut into tiles, so a long head costs no more than many.

Split-KV ("flash decoding") over a work list. A tile is up to `TILE` entries of one segment; a
program attends one tile with all query rows that read the segment, group and chunk alike, so that
keys and values leave memory once. Programs are as many as tiles, whichever heads the entries belong
to: one head of 22,000 is shared out like many of 256. A second kernel merges the tiles of each
segment by their log-sum-exp; where every segment is one tile it is not needed, nor launched.

What is launched depends on the prefix and the query's shape alone: no value is read back from the
GPU, so a decode step can be captured in a CUDA graph once an ordinary step has built the tile list.
A segment is cut the same way in any batch, so a sequence gets the same bits alone and in company.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headkv.kernels.ragged import TILE, Ragged, Tiles

_FEW_ROWS = 64  # query rows of a segment up to which its entries are cut into tiles
_MERGED_TILES = 16  # read at a time by the second kernel


@triton.jit
def _capped(logits: tl.tensor, softcap: float) -> tl.tensor:
    """`softcap * tanh(logits / softcap)`."""
    # tanh(x) = 1 - 2 / (exp(2 x) + 1); right at both ends, where exp is 0 or infinite.
    return softcap * (1 - 2 / (tl.exp(logits * (2 / softcap)) + 1))


@triton.jit
def _attend_tile(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    bias: tl.tensor | None,
    tiles: tl.tensor,
    output: tl.tensor,
    lse: tl.tensor,
    scaling: float,
    softcap: float | None,
    rows: int,
    row_blocks: int,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One tile against a block of its segment's query rows.

    Args:
        query: `[segment, row, HEAD_DIM]`.
        keys: `[entries, HEAD_DIM]`.
        values: `[entries, VALUE_DIM]`.
        bias: float32 `[entries]`, added to the logits; None compiles it away.
        tiles: int32 `[tile, 3]`: segment, first entry, entries.
        output: written, `[tile, row, VALUE_DIM]`, each tile's own softmax.
        lse: written, float32 `[tile, row]`.
        scaling: factor of the logits.
        softcap: soft cap of the logits; None compiles it away.
        rows: query rows of a segment.
        row_blocks: programs of a tile.
        HEAD_DIM: width of queries and keys.
        VALUE_DIM: width of values.
        HEAD_PAD: the next power of two.
        VALUE_PAD: the next power of two.
        ROW_BLOCK: query rows of a program, at least 16 for `tl.dot`.
        BLOCK: entries at a time, at least 16.
    """
    program = tl.program_id(0)
    # Row blocks of a tile are neighbours, so that all but the first find its keys in the L2 cache.
    tile = (program // row_blocks).to(tl.int64)
    row = (program % row_blocks) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    segment = tl.load(tiles + tile * 3).to(tl.int64)
    first = tl.load(tiles + tile * 3 + 1).to(tl.int64)
    length = tl.load(tiles + tile * 3 + 2)
    column, value_column = tl.arange(0, HEAD_PAD), tl.arange(0, VALUE_PAD)
    entry = tl.arange(0, BLOCK)
    real_row, real_column = row < rows, column < HEAD_DIM
    real_value = value_column < VALUE_DIM

    query += segment * rows * HEAD_DIM
    asked = tl.load(
        query + row[:, None] * HEAD_DIM + column[None, :],
        mask=real_row[:, None] & real_column[None, :],
        other=0.0,
    )
    # From here on offsets count from the tile, so that they fit 32 bits whatever the cache's size.
    keys += first * HEAD_DIM
    values += first * VALUE_DIM
    if bias is not None:
        bias += first
    best = tl.full([ROW_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([ROW_BLOCK], tl.float32)
    mixed = tl.zeros([ROW_BLOCK, VALUE_PAD], tl.float32)
    for start in range(0, length, BLOCK):
        place = start + entry
        inside = place < length
        key = tl.load(
            keys + place[:, None] * HEAD_DIM + column[None, :],
            mask=inside[:, None] & real_column[None, :],
            other=0.0,
        )
        logits = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
        if softcap is not None:
            logits = _capped(logits, softcap)
        if bias is not None:
            logits += tl.load(bias + place, mask=inside, other=0.0)[None, :]
        logits = tl.where(inside[None, :], logits, float("-inf"))
        # A block has at least one entry, so `higher` is finite from the first block on.
        higher = tl.maximum(best, tl.max(logits, 1))
        weight = tl.exp(logits - higher[:, None])
        fade = tl.exp(best - higher)
        value = tl.load(
            values + place[:, None] * VALUE_DIM + value_column[None, :],
            mask=inside[:, None] & real_value[None, :],
            other=0.0,
        )
        total = total * fade + tl.sum(weight, 1)
        mixed = tl.dot(
            weight.to(value.dtype), value, acc=mixed * fade[:, None], input_precision="ieee"
        )
        best = higher

    output += tile * rows * VALUE_DIM
    tl.store(
        output + row[:, None] * VALUE_DIM + value_column[None, :],
        (mixed / total[:, None]).to(output.dtype.element_ty),
        mask=real_row[:, None] & real_value[None, :],
    )
    tl.store(lse + tile * rows + row, best + tl.log(total), mask=real_row)


@triton.jit
def _merge_tiles(
    parts: tl.tensor,
    parts_lse: tl.tensor,
    starts: tl.tensor,
    output: tl.tensor,
    lse: tl.tensor,
    rows: int,
    VALUE_DIM: tl.constexpr,
    VALUE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One query row of one segment from its tiles.

    Args:
        parts: float32 `[tile, row, VALUE_DIM]`.
        parts_lse: float32 `[tile, row]`.
        starts: int32 `[segment + 1]`, the first tile of each segment.
        output: written, `[segment, row, VALUE_DIM]`.
        lse: written, float32 `[segment, row]`.
        rows: query rows of a segment.
        VALUE_DIM: width of values.
        VALUE_PAD: the next power of two.
        BLOCK: tiles at a time.
    """
    program = tl.program_id(0).to(tl.int64)
    segment, row = program // rows, program % rows
    last = tl.load(starts + segment + 1)
    column = tl.arange(0, VALUE_PAD)
    real = column < VALUE_DIM
    best = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mixed = tl.zeros([VALUE_PAD], tl.float32)
    for start in range(tl.load(starts + segment), last, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        inside = tile < last
        place = tile.to(tl.int64) * rows + row
        share = tl.load(parts_lse + place, mask=inside, other=float("-inf"))
        part = tl.load(
            parts + place[:, None] * VALUE_DIM + column[None, :],
            mask=inside[:, None] & real[None, :],
            other=0.0,
        )
        higher = tl.maximum(best, tl.max(share, 0))
        weight = tl.exp(share - higher)
        fade = tl.exp(best - higher)
        total = total * fade + tl.sum(weight, 0)
        mixed = mixed * fade + tl.sum(part * weight[:, None], 0)
        best = higher
    tl.store(
        output + program * VALUE_DIM + column,
        (mixed / total).to(output.dtype.element_ty),
        mask=real,
    )
    tl.store(lse + program + tl.arange(0, 1), best + tl.log(total))


def options(rows: int, head_dim: int, value_dim: int, itemsize: int) -> dict[str, int]:
    """What the first kernel is compiled with.

    Compiled for compute capabilities 8.0 and 9.0, half precision takes 64 to 255 registers and at
    most 96 KiB of shared memory, none of it spilled. Exact float32 products do not run on tensor
    cores; with more rows or entries at a time than 16 they spill.

    Args:
        rows: query rows of a segment.
        head_dim: width of queries and keys.
        value_dim: width of values.
        itemsize: bytes of a number.
    """
    head_pad, value_pad = triton.next_power_of_2(head_dim), triton.next_power_of_2(value_dim)
    half = itemsize < 4
    return {
        "HEAD_DIM": head_dim,
        "VALUE_DIM": value_dim,
        "HEAD_PAD": head_pad,
        "VALUE_PAD": value_pad,
        "ROW_BLOCK": min(max(triton.next_power_of_2(rows), 16), 64) if half else 16,
        "BLOCK": min(8192 // max(head_pad, value_pad), 64) if half else 16,
        "num_warps": 4,
        "num_stages": 2,
    }


def attend(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends tile by tile in Triton kernels; any group size and number of queries.

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
    asked = query.reshape(prefix.counts.numel(), -1, head_dim)
    # Many rows are many programs without cutting, and cutting would store each row once per tile.
    work = prefix.tiles(TILE if asked.shape[1] <= _FEW_ROWS else max(prefix.lengths))
    entries = prefix.keys, prefix.values, prefix.bias
    output, lse = attend_tiles(asked, *entries, work, scaling, softcap)
    return output.view(batch, query_heads, length, -1), lse.view(batch, query_heads, length)


def attend_tiles(
    asked: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    work: Tiles,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """`attend` over a work list that is made already: what is launched depends on shapes alone.

    Args:
        asked: queries, `[segment, row, head_dim]`; the rest as `attend` and `_attend_tile` say.

    Returns:
        `[segment, row, value_dim]` in the queries' dtype, and float32 `[segment, row]`.
    """
    asked = asked.contiguous()
    (segments, rows, head_dim), value_dim, tiles = asked.shape, values.shape[1], len(work.table)
    output = asked.new_empty(segments, rows, value_dim)
    lse = asked.new_empty(segments, rows, dtype=torch.float32)
    parts, parts_lse = output, lse
    if not work.whole:
        parts = asked.new_empty(tiles, rows, value_dim, dtype=torch.float32)
        parts_lse = asked.new_empty(tiles, rows, dtype=torch.float32)
    shape = options(rows, head_dim, value_dim, asked.element_size())
    row_blocks = triton.cdiv(rows, shape["ROW_BLOCK"])
    with torch.cuda.device_of(asked):  # Triton launches on the current device
        _attend_tile[(tiles * row_blocks,)](
            asked,
            keys.contiguous(),
            values.contiguous(),
            bias,
            work.table,
            parts,
            parts_lse,
            scaling,
            softcap,
            rows,
            row_blocks,
            **shape,
        )
        if not work.whole:
            _merge_tiles[(segments * rows,)](
                parts,
                parts_lse,
                work.starts,
                output,
                lse,
                rows,
                VALUE_DIM=value_dim,
                VALUE_PAD=shape["VALUE_PAD"],
                BLOCK=_MERGED_TILES,
            )
    return output, lse
