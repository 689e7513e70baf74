"""Layers that look at the prompt's ends keep no more (SimLayerKV, arXiv 2410.13846)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import ModelAllocator, Room
from headkv.methods.allocators.binary import streamed
from headkv.methods.allocators.sharing import distribute, fill
from headkv.methods.evidence import Evidence
from headkv.methods.part import Count


@dataclass(frozen=True, eq=False)
class LazyLayersAllocator(ModelAllocator):
    """Lazy layers stream; the others share what is left.

    A layer is lazy by how much of the last query's attention, averaged over heads, falls on the
    very tokens that a lazy layer keeps. The paper has no budget: its threshold, tuned for each
    model, decides the bytes. Here `kv_size` is kept to the entry in both protocols.

    Attributes:
        sinks: first tokens that a lazy layer keeps.
        lazy_size: entries of a lazy layer's head beside the window: 4 first and 1,024 latest ones
            as published.
        lazy_share: most of the mean budget that it takes (ours).
        threshold: attention from which a layer is lazy; the others share the rest equally. null:
            the least lazy layers keep everything, as many as the budget pays for (ours).
    """

    name = "lazy_layers"
    even = True

    sinks: Annotated[int, Field(ge=0)] = 4
    lazy_size: Count = 1028
    lazy_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None

    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """See `ModelAllocator`."""
        least = streamed(room, self.lazy_size, self.lazy_share)
        laziness = torch.tensor(
            [self.laziness(each, least, room) for each in room.layers], dtype=torch.float64
        )
        total = room.mean * len(room.layers)
        if self.threshold is None:
            rows = fill(laziness.argsort(stable=True), total, least, room.limit)
        else:
            busy = (laziness < self.threshold).double()
            rows = distribute(total, torch.full_like(busy, least), busy, least, room.limit)
        return rows[:, None].repeat(1, room.stored)

    def laziness(self, evidence: Evidence, kept: int, room: Room) -> float:
        """Share of the last query's attention on what a lazy layer keeps, mean over heads.

        Args:
            evidence: the layer.
            kept: entries that it keeps beside what always stays, the first tokens among them.
            room: what is shared out.
        """
        sinks = min(self.sinks, kept)
        attention = evidence.attention(1)[:, sinks : room.limit - (kept - sinks)]
        return 1 - float(attention.double().sum(dim=1).mean())
