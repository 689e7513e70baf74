"""Attention that a token received from all later ones (H2O's heavy hitters, arXiv 2306.14048)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class ObservedScorer(Scorer):
    """Attention of all queries, summed, and part of every head's budget for the latest tokens.

    Forms the attention of every query anew, some of them at a time, which costs about as much as
    the attention of the prefill itself.

    Attributes:
        divided: whether a sum is divided by the number of queries that can see the token (as
            kvpress does; H2O does not).
        recent_ratio: part of what a head keeps, window included, that goes to the latest tokens
            (0.5 in H2O).
    """

    name = "observed"
    needs = frozenset({"accumulated_attention"})
    reranks = True

    window_size: Count = 1
    divided: bool = True
    recent_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        sums = evidence.accumulated_attention[:, :candidates]
        if self.divided:
            sums = sums / torch.arange(evidence.visible, 0, -1, device=sums.device)[:candidates]
        return reduce_groups(sums, stored, "mean")

    def ranking(self, evidence: Evidence, scores: Tensor, counts: Tensor) -> Tensor:
        """The latest tokens first, as many as are theirs; the others by attention."""
        kept = counts + self.window_size
        recent = (kept * self.recent_ratio).long() - self.window_size
        age = torch.arange(scores.shape[1], 0, -1, device=scores.device)
        return scores.masked_fill(age <= recent[:, None], float("inf"))
