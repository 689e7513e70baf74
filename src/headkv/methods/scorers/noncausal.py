"""Attention among neighbours in both directions (part of Compactor, arXiv 2507.08143)."""

from dataclasses import dataclass

from torch import Tensor

from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, repeated
from headkv.methods.scorers.leverage import standardised


@dataclass(frozen=True, eq=False)
class NoncausalScorer(Scorer):
    """Attention within chunks, without mask, times the value's norm, standardised over the layer.

    Attributes:
        chunk: tokens that see each other (256 in the published code).
    """

    name = "noncausal"
    needs = frozenset({"noncausal_attention", "values"})

    window_size: Count = 1
    chunk: Count = 256

    def read(self, evidence: Evidence) -> None:
        """See `Scorer`."""
        evidence.noncausal_attention(self.chunk)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        scores = neighbours(evidence, stored, self.chunk)
        return scores[:, : evidence.candidates(self.window_size)]


def neighbours(
    evidence: Evidence, stored: int, chunk: int, first: int = 0, last: int = 0
) -> Tensor:
    """Standardised scores of the user's text without some tokens at both ends.

    Args:
        evidence: the layer.
        stored: stored heads.
        chunk: tokens that see each other.
        first: tokens left out at the start.
        last: tokens left out at the end.

    Returns:
        `[stored_head, token]`.
    """
    sums = reduce_groups(evidence.noncausal_attention(chunk, first, last), stored, "mean")
    values = evidence.given_values[:, first : first + sums.shape[1]].float()
    weighed = sums * repeated(values.norm(dim=-1), stored)
    return standardised(pool(weighed, 3, "avg") if weighed.shape[1] else weighed)
