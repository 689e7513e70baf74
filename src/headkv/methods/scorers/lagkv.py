"""How much a token varies against the stretch of text that follows (LagKV, arXiv 2504.04704)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, repeated

_LEAST = 1e-6  # range of a channel that does not vary


@dataclass(frozen=True, eq=False)
class LagKVScorer(Scorer):
    """Partitions of the text, each measured with the ranges of the next: the same share of each.

    The first tokens, the last whole partition and what follows it come before all others. Among
    those, our choice: the first, then the latest, for a budget smaller than all of them.

    Attributes:
        sinks: first tokens, of no partition (4 in the published code).
        lag: tokens of a partition (128 there). Once sinks, the last partition and the rest exceed
            the budget, this is StreamingLLM.
    """

    name = "lagkv"
    needs = frozenset({"values"})

    window_size: Count = 1
    sinks: Annotated[int, Field(ge=0)] = 4
    lag: Annotated[int, Field(ge=2)] = 128

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        visible, device = evidence.visible, evidence.keys.device
        late = torch.arange(visible, dtype=torch.float32, device=device) / visible
        scores = 1 + late.repeat(evidence.kv_heads, 1)
        scores[:, : self.sinks] = 2
        whole = (visible - self.sinks) // self.lag
        if whole >= 2:
            end = self.sinks + whole * self.lag
            here = slice(self.sinks, end)
            varied = self._variation(evidence.keys[:, here])
            varied = varied + self._variation(evidence.given_values[:, here])
            ranks = varied.argsort(dim=-1, stable=True).argsort(dim=-1)
            scores[:, self.sinks : end - self.lag] = ranks.flatten(1) / self.lag
        return repeated(scores[:, : evidence.candidates(self.window_size)], stored)

    def _variation(self, states: Tensor) -> Tensor:
        """Of each partition but the last, `[kv_head, partition, token]`, sum 1 in each."""
        parts = states.float().unflatten(1, (-1, self.lag))
        after = parts[:, 1:]
        least, most = after.amin(dim=2, keepdim=True), after.amax(dim=2, keepdim=True)
        scaled = (parts[:, :-1] - least) / (most - least).clamp(min=_LEAST)
        centred = scaled - scaled.mean(dim=-1, keepdim=True)
        variance = centred.square().sum(dim=-1) / (states.shape[2] - 1)  # quicker than `std`
        return variance.sqrt().softmax(dim=-1)
