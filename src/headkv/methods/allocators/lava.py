"""Layers share by the entropy of their scores, heads compete within (LAVa, arXiv 2509.09754)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import ModelAllocator, Room
from headkv.methods.allocators.layer_competition import mixed, wins
from headkv.methods.allocators.sharing import distribute


@dataclass(frozen=True, eq=False)
class LavaAllocator(ModelAllocator):
    """A layer's share is the normalised entropy of its scores over all heads and tokens.

    Within a layer heads compete by the scores as they are, counted as Ada-KV does. The published
    code cuts earlier layers again as each layer comes; the last cut is the one that counts.

    Attributes:
        floor_ratio: part of a layer's budget that its heads share equally (0.2, as published).
    """

    name = "lava"

    floor_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2

    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """See `ModelAllocator`."""
        weights = torch.tensor([_entropy(each) for each in scores], dtype=torch.float64)
        if not bool((weights > 0).any()):
            weights = torch.ones_like(weights)
        shares = weights / weights.sum() * room.total
        # What a layer cannot use goes to the others evenly; the paper does not say.
        totals = distribute(
            room.total, shares, torch.ones_like(shares), room.stored, room.limit * room.stored
        )
        return torch.stack(
            [
                mixed(wins(each, total), total, self.floor_ratio, room)
                for each, total in zip(scores, totals.tolist(), strict=True)
            ]
        )


def _entropy(scores: Tensor) -> float:
    """Entropy of the scores as a distribution over its most; below 0 they are shifted."""
    flat = scores.flatten().double()
    flat = flat - min(float(flat.min()), 0.0)
    if float(flat.sum()) <= 0 or len(flat) == 1:
        return 1.0
    share = flat / flat.sum()
    return float(-torch.special.xlogy(share, share).sum()) / math.log(len(flat))
