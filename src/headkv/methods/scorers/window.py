"""Window attention (SnapKV, arXiv 2404.14469): what the end of the prompt attends to."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from headkv.config.typed import OddCount
from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.scorers.base import Scorer

How = Literal["mean", "max", "sum"]


@dataclass(frozen=True, eq=False)
class WindowScorer(Scorer):
    """Attention of the observation window, pooled along tokens, joined over a KV head's group.

    Attributes:
        kernel_size: odd width of the pooling along tokens; 1: none.
        pooling: `max` or `avg`.
        aggregation: how the window's queries are joined; published codes differ in it. See
            `Evidence.attention`.
        group_reduce: how the query heads of a KV head are joined.
        group_order: `pool_first`, then reduce the group (the default), or `reduce_first`.
    """

    name = "window"

    kernel_size: OddCount = 7
    pooling: Literal["max", "avg"] = "max"
    aggregation: How | Literal["undiluted"] = "mean"
    group_reduce: How = "mean"
    group_order: Literal["pool_first", "reduce_first"] = "pool_first"

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        if self.group_order == "reduce_first":
            attention = evidence.attention(self.window_size, self.aggregation)
            reduced = reduce_groups(attention, stored, self.group_reduce)
            return self.smoothed(evidence, reduced)
        return reduce_groups(self.pooled(evidence), stored, self.group_reduce)

    def pooled(self, evidence: Evidence) -> Tensor:
        """The pooled attention of every query head, float32 `[query_head, candidate]`, shared."""
        return evidence.pooled(self.window_size, self.aggregation, self.kernel_size, self.pooling)

    def smoothed(self, evidence: Evidence, attention: Tensor) -> Tensor:
        """Attention `[head, candidate]`, pooled along tokens."""
        return pool(attention, self.kernel_size, self.pooling)
