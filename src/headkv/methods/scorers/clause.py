"""What the window attends to and what is unlike the rest, sentence by sentence (this project's)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.scorers.base import repeated
from headkv.methods.scorers.keydiff import likeness
from headkv.methods.scorers.span import SpanScorer, by_mean


@dataclass(frozen=True, eq=False)
class ClauseScorer(SpanScorer):
    """Attention of the window over sentences, and how unlike the others a sentence's keys are.

    A question in the window attends to what it asks for, more than any novelty adds. Where the
    window is no question, its attention is spread thin, and what stands out of the text decides.

    Attributes:
        novelty: weight of the unlikeness; 0 leaves `span`.
        token: weight of the token's own unlikeness beside its span's mean.
    """

    name = "clause"

    novelty: Annotated[float, Field(ge=0)] = 5.0
    token: Annotated[float, Field(ge=0)] = 0.5

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        found = super().scores(evidence, stored)
        unlike = 1 - likeness(evidence.keys)[:, : found.shape[1]]
        novel = by_mean(self.over_spans(evidence, unlike, "avg")) + self.token * by_mean(unlike)
        return found + self.novelty * repeated(novel, stored)
