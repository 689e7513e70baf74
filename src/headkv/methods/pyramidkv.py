"""PyramidKV (arXiv 2406.02069): more tokens in the lower layers, linearly fewer with depth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.sharing import distribute
from headkv.methods.evidence import Observation
from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class PyramidKV(Method):
    """SnapKV's tokens; layer budgets fall linearly from `2b - b // steepness` to `b // steepness`.

    Attributes:
        steepness: the published code's 20; larger is steeper.
    """

    steepness: int = 20

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """Linear in depth; `paper` floors the step as the published code does, and overshoots."""
        least = mean // self.steepness
        most = 2 * mean - least
        if most >= limit:
            most, least = limit, 2 * mean - limit
        depth = torch.arange(num_layers)
        if self.corrected:
            slope = (most - least) / max(num_layers - 1, 1)
            linear = most - slope * depth.double() if num_layers > 1 else torch.tensor([mean])
            rows = distribute(mean * num_layers, linear, torch.ones(num_layers), 1, limit)
        else:
            rows = most - (most - least) // max(num_layers - 1, 1) * depth
        return rows[:, None].repeat(1, stored)

    def depth(self, observation: Observation) -> int:
        """A layer's share depends on how deep the model is."""
        if observation.num_layers is None:
            raise UserError(
                "pyramidkv's budget depends on the number of layers, which was not given",
                allowed="num_layers of the model",
                do="pass num_layers=",
            )
        return observation.num_layers
