"""The heads of all layers compete for the whole budget (KVzip's and Layer-DefensiveKV's rule)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.allocators.base import ModelAllocator, Room
from headkv.methods.allocators.layer_competition import wins
from headkv.methods.allocators.sharing import distribute


@dataclass(frozen=True, eq=False)
class ModelCompetitionAllocator(ModelAllocator):
    """A head keeps as many entries as it has among the best scores of the model.

    Ties go to the earlier layer, head and token. In `corrected` every head keeps one at least.

    Attributes:
        composite: layers compete instead of heads, and all heads of a layer keep the same number,
            each its own tokens (KVCompose, arXiv 2509.05165): the r-th composite token of a layer
            is worth the mean over heads of each head's r-th best score. The first layer's is worth
            the most that any layer's is; the paper leaves open whether rank by rank, as here.
    """

    name = "model_competition"

    composite: bool = False

    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """See `ModelAllocator`."""
        every = torch.stack([each.cpu() for each in scores])
        if self.composite:
            ranked = every.sort(dim=2, descending=True).values.mean(dim=1)
            ranked[0] = ranked.amax(dim=0)
            rows = self._won(ranked, room.mean * len(scores), room)
            return rows[:, None].repeat(1, room.stored)
        return self._won(every.flatten(0, 1), room.total, room).view(len(scores), room.stored)

    def _won(self, scores: Tensor, total: int, room: Room) -> Tensor:
        won = wins(scores, total)
        if room.corrected:
            won = distribute(total, won, torch.ones(len(won)), 1, room.limit)
        return won
