"""Heads that keep everything, and heads that stream (DuoAttention, arXiv 2410.10819)."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import fill
from headkv.methods.head_table import check_heads, head_table
from headkv.methods.part import Count


@dataclass(frozen=True, eq=False)
class BinaryAllocator(ShapeAllocator):
    """The heads of the highest scores keep everything, as many as the budget pays for.

    The paper sets the share of streaming heads and lets the bytes follow from the prompt's length.
    Here `kv_size` is kept to the entry in both protocols: one head may keep what is left over.

    Attributes:
        kind: which of a model's head-score files is read.
        head_scores: float `[layer, query_head]`, not negative.
        stream_size: entries of a streaming head beside the window: 128 sinks and 256 recent ones
            as published.
        stream_share: most of the mean budget that a streaming head takes, so that at small sizes
            some heads can keep everything (ours).
        group_reduce: how the scores of a KV head's query heads are joined.
    """

    name = "binary"
    resources = ("head_scores",)

    kind: str = "duo"
    head_scores: Any = None
    stream_size: Count = 384
    stream_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    group_reduce: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "head_scores", head_table(self.head_scores, self.name, self.kind))

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores only."""
        return replace(self, head_scores=self.head_scores[layers])

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """See `Part`."""
        check_heads(self.head_scores, num_layers, num_query_heads, exact=True)

    def depth(self, layer: int, num_layers: int | None) -> int:
        """The scores know how many layers the model has."""
        return int(self.head_scores.shape[0])

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
