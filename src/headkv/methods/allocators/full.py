"""Every token of every head: the uncompressed cache, the reference of every table."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator


@dataclass(frozen=True, eq=False)
class FullAllocator(ShapeAllocator):
    """Keeps every token; `kv_size` is ignored and no scores are asked for."""

    name = "full"
    keeps_all: ClassVar[bool] = True

    def budgets(self, room: Room) -> Tensor:
        """See `ShapeAllocator`."""
        assert room.num_layers is not None
        return torch.full((room.num_layers, room.stored), room.limit)
