"""A draw for every token: the control that every scorer should beat."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class RandomScorer(Scorer):
    """Evenly drawn scores, the same for the same seed, layer and number of tokens on any device.

    Attributes:
        seed: of the draw.
    """

    name = "random"

    seed: Annotated[int, Field(ge=0)] = 0

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + evidence.layer)
        drawn = torch.rand(evidence.kv_heads, candidates, generator=generator)
        rows = drawn.repeat_interleave(stored // evidence.kv_heads, dim=0)
        return rows.to(evidence.keys.device)
