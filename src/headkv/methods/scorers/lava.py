"""Window attention times the largest value of the head (LAVa, arXiv 2509.09754)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.scorers.window import How, WindowScorer


@dataclass(frozen=True, eq=False)
class LavaScorer(WindowScorer):
    """Pooled window attention times the largest L1 norm of the head's values; group maximum.

    The factor is the same for all tokens of a head: it decides between heads, not within one.
    """

    name = "lava"
    needs = frozenset({"values"})

    group_reduce: How = "max"
    group_order: Literal["pool_first"] = "pool_first"

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        assert evidence.values is not None
        largest = evidence.values.float().abs().sum(dim=2).amax(dim=1)
        factors = largest.repeat_interleave(evidence.query_heads // evidence.kv_heads)
        return reduce_groups(self.pooled(evidence) * factors[:, None], stored, self.group_reduce)
