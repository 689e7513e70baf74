"""The heads of a layer compete for the layer's budget (Ada-KV, arXiv 2407.11550)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import LayerAllocator, Room
from headkv.methods.allocators.sharing import distribute


@dataclass(frozen=True, eq=False)
class LayerCompetitionAllocator(LayerAllocator):
    """The layer's best scores over all heads decide how many each head keeps.

    Attributes:
        floor_ratio: part of the uniform budget that every head keeps (0.2 in the published code);
            0: heads compete without a floor.
        floor: how it is kept. `mixed`: wins count for the rest of the budget (Ada-KV's code);
            `protected`: each head's best entries are safe, and all others compete for what is left
            (kvpress's form of it).
        normalise: weight each head's scores by the share of its mass that its own best tokens hold,
            as Ada-KV's code does, so that heads with flat attention win fewer places.
    """

    name = "layer_competition"

    floor_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    floor: Literal["mixed", "protected"] = "mixed"
    normalise: bool = True

    def counts(self, room: Room, scores: Tensor) -> Tensor:
        """See `LayerAllocator`."""
        mean, candidates = room.mean, scores.shape[1]
        weighted = _weighted(scores, mean) if self.normalise else scores
        if self.floor == "protected":
            safe = int(self.floor_ratio * mean)
            rest = weighted.sort(dim=1, descending=True, stable=True).values[:, safe:]
            counts = wins(rest, len(scores) * (mean - safe)) + safe
            if room.corrected:
                return distribute(room.total, counts, torch.ones(len(scores)), 1, candidates)
            return counts
        return mixed(wins(weighted, room.total), room.total, self.floor_ratio, room)


def _weighted(scores: Tensor, mean: int) -> Tensor:
    """Scores times the share of mass in a head's best; below zero they are shifted up first."""
    least = scores.amin()
    if least < 0:
        scores = scores - least
    best = scores.topk(min(mean, scores.shape[1]), dim=-1).values.sum(dim=-1)
    return scores * (best / scores.sum(dim=-1))[:, None].nan_to_num()


def wins(scores: Tensor, total: int) -> Tensor:
    """How many of the best `total` scores belong to each head; of equals the earlier head's win.

    Args:
        scores: `[head, candidate]`.
        total: places that are given away.

    Returns:
        int64 `[head]` on the CPU.
    """
    order = scores.flatten().sort(descending=True, stable=True).indices[:total]
    return torch.bincount(order // scores.shape[1], minlength=len(scores)).cpu()


def mixed(won: Tensor, total: int, floor_ratio: float, room: Room) -> Tensor:
    """Wins, mixed with an equal share of the layer's total (Ada-KV's counting).

    Args:
        won: from `wins`.
        total: entries of the layer.
        floor_ratio: part of the total that is shared equally.
        room: of the layer or the model.

    Returns:
        int64 `[head]`; in `corrected` the sum is `total`.
    """
    mean = total / len(won)
    if room.corrected:
        shares = (1 - floor_ratio) * won.double() + floor_ratio * mean
        return distribute(total, shares, torch.ones(len(won)), 1, room.limit)
    floor = int(floor_ratio * mean)
    return ((1 - floor_ratio) * won.double() + floor).round().long().clamp(max=room.limit)
