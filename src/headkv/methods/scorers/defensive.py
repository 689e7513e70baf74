"""The worst case over window and group, not the mean (DefensiveKV, arXiv 2510.13334)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.config.typed import OddCount
from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.scorers.base import Scorer

_LEAST = 1e-30  # of a sum that is divided by


@dataclass(frozen=True, eq=False)
class DefensiveScorer(Scorer):
    """Greatest attention of any query, never below the mean, weighed by the value's part.

    Then, as in the published code, the tokens with most mean attention that together hold a share
    of it are worth as much as the best of the layer, in each head no more than its mean budget.

    Attributes:
        kernel_size: odd width of the average along tokens, which leaves a query's sum as it is.
        share: mean attention that the protected tokens hold, less what the latest candidates, as
            many as the window has, hold of all.
    """

    name = "defensive"
    needs = frozenset({"values", "output_projection"})
    reads_budget = True

    kernel_size: OddCount = 5
    share: Annotated[float, Field(ge=0, le=1)] = 0.9

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        return self.scores_within(evidence, stored, evidence.candidates(self.window_size))

    def scores_within(self, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        weights = evidence.weights(self.window_size)[:, :, :candidates]
        norms = reduce_groups(evidence.projected_norms(1)[:, :candidates], stored, "mean")
        scores = self._worst(weights, stored) * norms / norms.sum(dim=0).clamp(min=_LEAST)
        average = weights.view(stored, -1, candidates).mean(dim=1)
        latest = weights[:, :, -self.window_size :].sum(dim=-1).mean()
        best = self._best(average, self.share - latest, mean)
        return torch.where(best, scores.amax(), scores)

    def _worst(self, weights: Tensor, stored: int) -> Tensor:
        """The greatest smoothed attention, or the mean of those if that is more."""
        smooth = pool(weights.flatten(0, 1), self.kernel_size, "avg").view(weights.shape)
        kept = weights.sum(dim=-1, keepdim=True) / smooth.sum(dim=-1, keepdim=True).clamp(_LEAST)
        greatest = (smooth * kept).view(stored, -1, weights.shape[2]).amax(dim=1)
        return greatest.maximum(greatest.mean(dim=-1, keepdim=True))

    def _best(self, average: Tensor, share: Tensor, limit: int) -> Tensor:
        """Tokens that are protected, bool `[stored_head, candidate]`.

        Those before the one with which the share is reached; none if it never is.
        """
        normal = average / average.sum(dim=-1, keepdim=True).clamp(min=_LEAST)
        ordered, order = normal.sort(dim=-1, descending=True, stable=True)
        reached = ordered.cumsum(dim=-1) >= share
        count = reached.long().argmax(dim=-1, keepdim=True).clamp(max=limit)
        first = torch.arange(average.shape[1], device=average.device) < count
        return torch.zeros_like(first).scatter_(1, order, first)
