"""Window attention plus its variance over the window (CAKE, arXiv 2503.12491)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.cake import spread
from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.part import Count
from headkv.methods.scorers.window import WindowScorer


@dataclass(frozen=True, eq=False)
class CakeScorer(WindowScorer):
    """Mean attention and `gamma` times its variance over the window's queries, then pooled.

    Attributes:
        gamma: weight of the variance (200 as published).
    """

    name = "cake"

    kernel_size: Count = 5
    pooling: Literal["max", "avg"] = "avg"
    gamma: Annotated[float, Field(ge=0)] = 200.0

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        weights = evidence.weights(self.window_size)[:, :, :candidates]
        wanted = weights.mean(dim=1) + self.gamma * spread(weights)
        if self.group_order == "reduce_first":
            return pool(
                reduce_groups(wanted, stored, self.group_reduce), self.kernel_size, self.pooling
            )
        return reduce_groups(
            pool(wanted, self.kernel_size, self.pooling), stored, self.group_reduce
        )
