"""A prefix that a compiled or captured decode step reads: one custom op over tensors at rest.

`attend_frozen` is `attend` for `torch.compile(fullgraph=True)` and CUDA graphs. All that depends on
how many entries the heads hold lies in tensors made beforehand: no value is read back from the
device, and nothing is looked up by Python while the step runs. On a GPU it launches the Triton
kernels of `triton_decode`; on the CPU it is one attention with the other segments masked out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.kernels.dense import attention_with_lse, soft_cap
from headkv.kernels.ragged import TILE, Ragged, Tiles


@dataclass(frozen=True, eq=False)
class Frozen:
    """A `Ragged` and what kernels read of its counts, as tensors that stay where they are.

    Attributes:
        keys: `[entries, head_dim]`.
        values: `[entries, value_dim]`.
        bias: float32 `[entries]`, added to the logits; None: nothing.
        owner: the segment of each entry, counted from its block's first, int32 `[entries]`.
        table: see `Tiles`.
        starts: see `Tiles`.
        whole: see `Tiles`.
        blocks: sequences, if all hold equally many entries, else 1: on the CPU each block's queries
            are multiplied with all its entries.
        uniform: whether all segments hold equally many.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    owner: Tensor
    table: Tensor
    starts: Tensor
    whole: bool
    blocks: int
    uniform: bool

    @classmethod
    def of(cls, prefix: Ragged) -> "Frozen":
        """The same entries, not copied, and their lists.

        Args:
            prefix: the compressed prompts.
        """
        counts = prefix.counts
        tiles: Tiles = prefix.tiles(TILE)
        blocks = len(counts) if prefix.even else 1
        segments = torch.arange(counts.numel()) % (counts.numel() // blocks)
        owner = segments.repeat_interleave(counts.flatten()).to(prefix.keys.device, torch.int32)
        return cls(
            prefix.keys,
            prefix.values,
            prefix.bias,
            owner,
            tiles.table,
            tiles.starts,
            tiles.whole,
            blocks,
            prefix.uniform is not None,
        )

    def tensors(self) -> list[Tensor]:
        """All that a step reads; their addresses do not change."""
        held = (self.keys, self.values, self.bias, self.owner, self.table, self.starts)
        return [each for each in held if each is not None]

    def attend(
        self, query: Tensor, scaling: float, softcap: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `headkv.kernels.attend`."""
        return attend_frozen(
            query,
            self.keys,
            self.values,
            self.bias,
            self.owner,
            self.table,
            self.starts,
            self.whole,
            self.blocks,
            self.uniform,
            scaling,
            softcap,
        )


@torch.library.custom_op("headkv::attend_frozen", mutates_args=())
def attend_frozen(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    owner: Tensor,
    table: Tensor,
    starts: Tensor,
    whole: bool,
    blocks: int,
    uniform: bool,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention over a `Frozen`, whose fields these are; arguments and result as of `attend`."""
    batch, query_heads, length, head_dim = query.shape
    segments = len(starts) - 1
    rows = query.reshape(segments, -1, head_dim)
    if query.is_cuda:
        from headkv.kernels.triton_decode import attend_tiles

        work = Tiles(table, starts, whole)
        output, lse = attend_tiles(rows, keys, values, bias, work, scaling, softcap)
    elif uniform:
        own_keys, own_values = (
            side.view(segments, 1, -1, side.shape[1]) for side in (keys, values)
        )
        mask = None if bias is None else bias.view(segments, 1, 1, -1)
        output, lse = attention_with_lse(
            rows[:, None], own_keys, own_values, scaling, softcap, mask
        )
    else:
        # Other segments' entries are multiplied, too, and masked out: calls are dearer than that.
        asked = torch.arange(segments // blocks, dtype=torch.int32).repeat_interleave(rows.shape[1])
        other = owner.view(blocks, 1, 1, -1) != asked[:, None]
        mask = torch.zeros(other.shape)
        if bias is not None:
            mask = mask + bias.view(blocks, 1, 1, -1)
        mask = mask.masked_fill(other, float("-inf"))
        own_keys, own_values = (side.view(blocks, 1, -1, side.shape[1]) for side in (keys, values))
        by_block = rows.reshape(blocks, 1, -1, head_dim)
        output, lse = attention_with_lse(by_block, own_keys, own_values, scaling, softcap, mask)
    shape = (batch, query_heads, length)
    return output.reshape(*shape, -1).contiguous(), lse.reshape(shape).contiguous()


@attend_frozen.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    output = query.new_empty(*query.shape[:3], values.shape[1])
    return output, query.new_empty(query.shape[:3], dtype=torch.float32)


def attend_filled(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    length: Tensor,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """The latest tokens' queries over a tail of fixed size, of which the first `length` are there.

    Args:
        query: `[batch, query_head, query, head_dim]`.
        keys: `[batch, kv_head, room, head_dim]`.
        values: `[batch, kv_head, room, value_dim]`.
        length: tokens of the tail, these included, int64 `[1]` beside the keys.
        scaling: factor of the logits.
        softcap: soft cap of the logits.

    Returns:
        As `attend`.
    """
    batch, heads, room = keys.shape[:3]
    tokens = query.shape[2]
    place = torch.arange(room, device=keys.device)
    last = length - tokens + torch.arange(tokens, device=keys.device)
    hidden = place > last[:, None]  # [query, room]
    grouped = query.reshape(batch, heads, -1, tokens, query.shape[3])
    logits = soft_cap(grouped.float() @ keys.float().mT[:, :, None] * scaling, softcap)
    logits = logits.masked_fill(hidden, float("-inf"))
    lse = logits.logsumexp(-1)
    output = torch.exp(logits - lse[..., None]) @ values.float()[:, :, None]
    shape = query.shape[:3]
    return output.reshape(*shape, -1).to(query.dtype), lse.reshape(shape)
