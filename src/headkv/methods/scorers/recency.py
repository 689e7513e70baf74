"""The first tokens and the latest ones, whatever they say (StreamingLLM, arXiv 2309.17453)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class RecencyScorer(Scorer):
    """Later is better, and the first tokens are best.

    Attributes:
        sinks: attention sinks at the start of the prompt (4 in the paper).
    """

    name = "recency"

    sinks: Annotated[int, Field(ge=0)] = 4

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        rank = torch.arange(candidates, dtype=torch.float32, device=evidence.keys.device)
        rank[: self.sinks] = float(candidates)  # equal: the earlier first
        return rank.repeat(stored, 1)
