"""The heads of a layer compete for the layer's budget (Ada-KV, arXiv 2407.11550)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import LayerAllocator, Room
from headkv.methods.allocators.sharing import distribute


@dataclass(frozen=True, eq=False)
class LayerCompetitionAllocator(LayerAllocator):
    """The layer's best scores over all heads decide how many each head keeps.

    Attributes:
        floor_ratio: part of the uniform budget that every head keeps (0.2 in the published code).
    """

    name = "layer_competition"

    floor_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2

    def counts(self, room: Room, scores: Tensor) -> Tensor:
        """Counts each head's tokens among the layer's best, mixed with a floor.

        Each head's scores are weighted by the share of its mass that its own best tokens hold, as
        the published code does, so that heads with flat attention win fewer places. Scores below
        zero are shifted up to zero first, for a share of mass needs some.
        """
        stored, candidates = scores.shape
        mean = room.mean
        least = scores.amin()
        if least < 0:
            scores = scores - least
        best = scores.topk(min(mean, candidates), dim=-1).values.sum(dim=-1)
        weighted = scores * (best / scores.sum(dim=-1))[:, None].nan_to_num()
        order = weighted.flatten().sort(descending=True, stable=True).indices[: stored * mean]
        wins = torch.bincount(order // candidates, minlength=stored).double().cpu()
        if room.corrected:
            mixed = (1 - self.floor_ratio) * wins + self.floor_ratio * mean
            return distribute(stored * mean, mixed, torch.ones(stored), 1, candidates)
        floor = int(self.floor_ratio * mean)
        mixed = ((1 - self.floor_ratio) * wins + floor).round().long()
        return mixed.clamp(max=candidates)
