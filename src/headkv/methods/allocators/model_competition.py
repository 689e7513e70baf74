"""The heads of all layers compete for the whole budget (KVzip's and Layer-DefensiveKV's rule)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.allocators.base import ModelAllocator, Room
from headkv.methods.allocators.sharing import distribute


@dataclass(frozen=True, eq=False)
class ModelCompetitionAllocator(ModelAllocator):
    """A head keeps as many entries as it has among the best scores of the model.

    Ties go to the earlier layer, head and token. In `corrected` every head keeps one at least.
    """

    name = "model_competition"

    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """See `ModelAllocator`."""
        stored, candidates = scores[0].shape
        heads = stored * len(scores)
        every = torch.cat([layer.flatten().cpu() for layer in scores])
        best = every.sort(descending=True, stable=True).indices[: heads * room.mean]
        wins = torch.bincount(best // candidates, minlength=heads)
        if room.corrected:
            total = heads * room.mean
            wins = distribute(total, wins.double(), torch.ones(heads), 1, candidates)
        return wins.view(len(scores), stored)
