"""Leverage of keys and attention among neighbours, added (Compactor, arXiv 2507.08143)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, protected, repeated
from headkv.methods.scorers.leverage import leverage, standardised
from headkv.methods.scorers.noncausal import neighbours

_BLEND = 0.35  # where the budget is not known, as in the published code


@dataclass(frozen=True, eq=False)
class CompactorScorer(Scorer):
    """Both scores of the tokens between the sinks and the window, the leverage times a weight.

    Attributes:
        window_size: latest tokens that stay (4 in the published code).
        sinks: first tokens that stay (8 there).
        blend: weight of the leverage; null: the part of the prompt that is dropped, as there.
        chunk: tokens that see each other.
        sketch: dimensions that keys are projected to at random.
        seed: of the projection.
    """

    name = "compactor"
    needs = frozenset({"noncausal_attention", "values"})
    reads_budget = True

    window_size: Count = 4
    sinks: Annotated[int, Field(ge=0)] = 8
    blend: Annotated[float, Field(ge=0)] | None = None
    chunk: Count = 256
    sketch: Count = 48
    seed: Annotated[int, Field(ge=0)] = 0

    def read(self, evidence: Evidence) -> None:
        """See `Scorer`."""
        evidence.noncausal_attention(self.chunk, self.sinks, self.window_size)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        return self._blended(evidence, stored, _BLEND if self.blend is None else self.blend)

    def scores_within(self, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """The weight of the leverage is the part of the prompt that is dropped."""
        dropped = evidence.candidates(self.window_size) - mean
        blend = dropped / evidence.tokens if self.blend is None else self.blend
        return self._blended(evidence, stored, blend)

    def _blended(self, evidence: Evidence, stored: int, blend: float) -> Tensor:
        candidates = evidence.candidates(self.window_size)
        if candidates <= self.sinks:
            return protected(evidence.keys.new_zeros(stored, 0).float(), self.sinks, candidates)
        near = neighbours(evidence, stored, self.chunk, self.sinks, self.window_size)
        keys = evidence.plain_keys[:, self.sinks : candidates]
        far = standardised(leverage(keys, self.sketch, self.seed, evidence.layer))
        return protected(blend * repeated(far, stored) + near, self.sinks, candidates)
