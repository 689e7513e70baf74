"""Window attention of a layer's best heads, for all its heads (CompressKV, arXiv 2508.02401)."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor

from headkv.methods.evidence import Evidence, pool
from headkv.methods.head_table import check_heads, head_table
from headkv.methods.part import Count
from headkv.methods.scorers.window import WindowScorer
from headkv.typed import OddCount


@dataclass(frozen=True, eq=False)
class BestHeadsScorer(WindowScorer):
    """One ranking a layer, chosen by the heads that retrieve best; every stored head has it.

    Attributes:
        kind: which of a model's head-score files says so.
        head_scores: float `[layer, query_head]`, not negative.
        top_heads: query heads of each layer that choose (4 in the paper).
    """

    name = "best_heads"
    resources = ("head_scores",)

    kernel_size: OddCount = 5
    pooling: Literal["max", "avg"] = "avg"
    kind: str = "semantic"
    head_scores: Any = None
    top_heads: Count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "head_scores", head_table(self.head_scores, self.name, self.kind))

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores only."""
        return replace(self, head_scores=self.head_scores[layers])

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """See `Part`."""
        check_heads(self.head_scores, num_layers, num_query_heads, exact=True)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """Mean over the best heads of their pooled window attention, one row for all."""
        self.check_model(evidence.num_layers or len(self.head_scores), evidence.query_heads)
        ranked = self.head_scores[evidence.layer].argsort(descending=True, stable=True)
        attention = evidence.attention(self.window_size, self.aggregation)
        chosen = attention[ranked[: self.top_heads].to(attention.device)]
        pooled = pool(chosen, self.kernel_size, self.pooling)
        return pooled.mean(dim=0).repeat(stored, 1)
