"""More tokens in the lower layers, linearly fewer with depth (PyramidKV, arXiv 2406.02069)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import distribute
from headkv.methods.part import Count


@dataclass(frozen=True, eq=False)
class PyramidAllocator(ShapeAllocator):
    """Layer budgets fall linearly from `2b - b // steepness` to `b // steepness`.

    Attributes:
        steepness: the published code's 20; larger is steeper.
    """

    name = "pyramid"
    even = True

    steepness: Count = 20

    def depth(self, layer: int, num_layers: int | None) -> int:
        """A layer's share depends on how deep the model is."""
        if num_layers is None:
            raise UserError(
                "pyramid budgets depend on the number of layers, which was not given",
                allowed="num_layers of the model",
                do="pass num_layers=",
            )
        return num_layers

    def budgets(self, room: Room) -> Tensor:
        """Linear in depth; `paper` floors the step as the published code does, and overshoots."""
        layers, mean, limit = room.num_layers, room.mean, room.limit
        assert layers is not None
        least = mean // self.steepness
        most = 2 * mean - least
        if most >= limit:
            most, least = limit, 2 * mean - limit
        depth = torch.arange(layers)
        if room.corrected:
            slope = (most - least) / max(layers - 1, 1)
            linear = most - slope * depth.double() if layers > 1 else torch.tensor([mean])
            rows = distribute(mean * layers, linear, torch.ones(layers), 1, limit)
        else:
            rows = most - (most - least) // max(layers - 1, 1) * depth
        return rows[:, None].repeat(1, room.stored)
