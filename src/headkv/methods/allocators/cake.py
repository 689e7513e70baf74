"""Layers compete by how spread and how unsteady their attention is (CAKE, ICLR 2025).

CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, arXiv 2503.12491.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import ModelAllocator, Room
from headkv.methods.allocators.sharing import distribute
from headkv.methods.evidence import Evidence


@dataclass(frozen=True, eq=False)
class CakeAllocator(ModelAllocator):
    """A layer's share is entropy^(1/tau1) x variance^(1/tau2) of its window attention.

    All heads of a layer keep the same. The published code cuts earlier layers again as each layer
    comes ("cascading"); the last cut is the one that counts, and it is this one.

    Attributes:
        tau1: temperature of the entropy; the published code reads it from a file for each model
            and size, and takes 1 without one.
        tau2: temperature of the variance, likewise.
    """

    name = "cake"
    even = True

    tau1: Annotated[float, Field(gt=0)] = 1.0
    tau2: Annotated[float, Field(gt=0)] = 1.0

    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """See `ModelAllocator`."""
        preference = torch.tensor([self.preference(each, room) for each in room.layers]).double()
        if not bool((preference > 0).any()):
            preference = torch.ones_like(preference)
        total = room.mean * len(room.layers)
        shares = preference / preference.sum() * total
        if room.corrected:
            rows = distribute(total, shares, torch.ones_like(shares), 1, room.limit)
        else:  # what a layer cannot use is shared evenly, as above; a layer may get nothing
            rows = distribute(total, shares, torch.ones_like(shares), 0, room.limit)
        return rows[:, None].repeat(1, room.stored)

    def preference(self, evidence: Evidence, room: Room) -> float:
        """How much a layer wants: over all query heads, window queries and candidates."""
        weights = evidence.weights(room.kept_tail - evidence.template_tokens)[:, :, : room.limit]
        entropy = float(-(weights * (weights + 1e-10).log()).sum())
        variance = float(spread(weights).sum())
        return float(max(entropy, 0.0) ** (1 / self.tau1) * variance ** (1 / self.tau2))


def spread(weights: Tensor) -> Tensor:
    """Variance over the window's queries, divided by one less than there are, `[head, candidate]`.

    Args:
        weights: `[query_head, query, candidate]`.
    """
    return weights.var(dim=1, correction=min(1, weights.shape[1] - 1))
