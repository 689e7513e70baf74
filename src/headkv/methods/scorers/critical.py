"""Half the budget by a base scorer, half by what values add to the output (CriticalKV)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.scorers.over import OverScorer
from headkv.methods.sums import projected_norms_at

_OVER = 1.0001  # a bound's share of rounding


@dataclass(frozen=True, eq=False)
class CriticalScorer(OverScorer):
    """Two stages in each head, once its budget is known (CriticalKV, arXiv 2502.03805).

    The allocator decides by the base's scores. Of what a head keeps, a part is the best by the
    base, and the rest the best by the base's score times the 1-norm of the projected value.
    Scores below zero, which a product would turn over, are shifted up to zero first (ours).

    Attributes:
        first_ratio: part of a head's budget that the base alone decides.
        epsilon: added to scores before they are weighed.
    """

    name = "critical"
    needs = frozenset({"values", "output_projection"})
    reranks = True

    first_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    epsilon: Annotated[float, Field(ge=0)] = 1e-4

    def ranking(self, evidence: Evidence, scores: Tensor, counts: Tensor) -> Tensor:
        """See `Scorer`."""
        scores = self.base.ranking(evidence, scores, counts)
        candidates = scores.shape[1]
        first = (counts * self.first_ratio).long()
        order = scores.argsort(dim=-1, descending=True, stable=True)
        best = torch.arange(candidates, device=scores.device) < first[:, None]
        chosen = torch.zeros_like(best).scatter_(1, order, best)
        shifted = scores - scores.amin(dim=-1, keepdim=True).clamp(max=0)
        weighed = (shifted + self.epsilon).masked_fill(chosen, 0)
        second = self._second(evidence, weighed, counts - first)
        return second.masked_fill(chosen, float("inf"))

    def _second(self, evidence: Evidence, weighed: Tensor, counts: Tensor) -> Tensor:
        """The second stage's products, where they can be among the best `counts` of a head.

        Projecting every value costs as much as the output projection of the whole prompt. The
        1-norm is no more than the 2-norm times the root of the dimension, and the 2-norm is cheap:
        products are worked out for the tokens where that bound is highest, more of them until no
        other can reach the best. Of those others, -1 is said.
        """
        stored, candidates = weighed.shape
        values, parts = evidence.given_values, evidence.output_projection
        norms = reduce_groups(evidence.projected_norms(2)[:, :candidates], stored, "mean")
        bounds = weighed * norms * (_OVER * parts.shape[2] ** 0.5)
        tokens = 4 * int(counts.max()) + 64
        while True:
            tokens = min(tokens, candidates)
            highest, places = bounds.topk(tokens, dim=-1)
            products = weighed.gather(1, places) * projected_norms_at(values, parts, places)
            worst = products.sort(dim=-1, descending=True).values
            worst = worst.gather(1, (counts[:, None] - 1).clamp(0, tokens - 1))
            reached = (worst >= highest[:, -1:]) | (counts[:, None] == 0)
            if tokens == candidates or bool(reached.all()):
                return torch.full_like(weighed, -1).scatter_(1, places, products)
            tokens *= 4
