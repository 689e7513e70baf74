"""The same budget for every head of every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator


@dataclass(frozen=True, eq=False)
class UniformAllocator(ShapeAllocator):
    """Every stored head keeps the mean."""

    name = "uniform"
    even = True

    def budgets(self, room: Room) -> Tensor:
        """See `ShapeAllocator`."""
        assert room.num_layers is not None
        return torch.full((room.num_layers, room.stored), room.mean)
