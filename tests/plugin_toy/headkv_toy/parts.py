"""A scorer and an allocator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.evidence import Evidence
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class MiddleScorer(Scorer):
    """The nearer to the middle of the prompt, the better."""

    name = "middle"

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        count = evidence.candidates(self.window_size)
        places = torch.arange(count, device=evidence.keys.device, dtype=torch.float32)
        return -(places - count / 2).abs().expand(stored, count)


@dataclass(frozen=True, eq=False)
class FirstLayerAllocator(ShapeAllocator):
    """Half the mean for all heads, and for those of the first layer what that leaves.

    Attributes:
        share: of the mean that the others keep.
    """

    share: float = 0.5

    name = "first_layer"

    def budgets(self, room: Room) -> Tensor:
        """See `ShapeAllocator`."""
        assert room.num_layers is not None
        others = int(room.mean * self.share) if room.num_layers > 1 else room.mean
        table = torch.full((room.num_layers, room.stored), others)
        table[0] += (room.mean - others) * room.num_layers
        if int(table.max()) > room.limit:
            return torch.full((room.num_layers, room.stored), room.mean)
        return table
