"""Heads that keep everything, and heads that stream (DuoAttention, arXiv 2410.10819)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import fill
from headkv.methods.head_table import HeadScored, check_heads
from headkv.methods.part import Count


@dataclass(frozen=True, eq=False)
class BinaryAllocator(HeadScored, ShapeAllocator):
    """The heads of the highest scores keep everything, as many as the budget pays for.

    The paper sets the share of streaming heads and lets the bytes follow from the prompt's length.
    Here `kv_size` is kept to the entry in both protocols: one head may keep what is left over.

    Attributes:
        stream_size: entries of a streaming head beside the window: 128 sinks and 256 recent ones
            as published.
        stream_share: most of the mean budget that a streaming head takes, so that at small sizes
            some heads can keep everything (ours).
        group_reduce: how the scores of a KV head's query heads are joined.
    """

    name = "binary"

    kind: str = "duo"
    stream_size: Count = 384
    stream_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    group_reduce: Literal["mean", "max"] = "mean"

    def budgets(self, room: Room) -> Tensor:
        """See `ShapeAllocator`; of equal scores the earlier head keeps everything."""
        assert room.num_layers is not None
        check_heads(self.head_scores, room.num_layers, room.stored)
        grouped = self.head_scores.view(room.num_layers, room.stored, -1)
        joined = grouped.amax(dim=2) if self.group_reduce == "max" else grouped.mean(dim=2)
        order = joined.flatten().argsort(descending=True, stable=True)
        least = streamed(room, self.stream_size, self.stream_share)
        return fill(order, room.total, least, room.limit).view_as(joined)


def streamed(room: Room, size: int, share: float) -> int:
    """Entries that a streaming head keeps beside what always stays.

    Args:
        room: what is shared out.
        size: as published.
        share: most of the mean budget.
    """
    return max(min(size, int(share * room.mean), room.limit), 1)
