"""Window attention of a layer's best heads, for all its heads (CompressKV, arXiv 2508.02401)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from headkv.config.typed import OddCount
from headkv.methods.evidence import Evidence, pool
from headkv.methods.head_table import HeadScored
from headkv.methods.part import Count
from headkv.methods.scorers.window import WindowScorer


@dataclass(frozen=True, eq=False)
class BestHeadsScorer(HeadScored, WindowScorer):
    """One ranking a layer, chosen by the heads that retrieve best; every stored head has it.

    Attributes:
        top_heads: query heads of each layer that choose (4 in the paper).
    """

    name = "best_heads"
    across_heads = True

    kernel_size: OddCount = 5
    pooling: Literal["max", "avg"] = "avg"
    kind: str = "semantic"
    top_heads: Count = 4

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """Mean over the best heads of their pooled window attention, one row for all."""
        self.check_model(evidence.num_layers or len(self.head_scores), evidence.query_heads)
        ranked = self.head_scores[evidence.layer].argsort(descending=True, stable=True)
        attention = evidence.attention(self.window_size, self.aggregation)
        chosen = attention[ranked[: self.top_heads].to(attention.device)]
        pooled = pool(chosen, self.kernel_size, self.pooling)
        return pooled.mean(dim=0).repeat(stored, 1)
