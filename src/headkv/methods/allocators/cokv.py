"""Budgets by scores above those of the least important heads (CoKV's rule, arXiv 2502.17501)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import distribute
from headkv.methods.head_table import HeadScored, check_heads
from headkv.methods.part import Count


@dataclass(frozen=True, eq=False)
class CokvAllocator(HeadScored, ShapeAllocator):
    """The `alpha` least important heads get nothing beside what always stays.

    A head's share is its score above the `alpha`-th smallest. Only differences count, so scores
    that were shifted to be positive give the same budgets. CoKV's own scores are sliced Shapley
    values of KV heads (kind `cooperative`); any other kind can be used.

    Attributes:
        head_scores: float `[layer, query_head]`, not negative; those of a KV head's query heads
            are averaged.
        alpha: chosen on the validation part in the paper, of 1, 5, 10, 15, 20, 30, 40 for 256
            heads; at most all heads but one.
    """

    name = "cokv"

    kind: str = "cooperative"
    alpha: Count = 10

    def budgets(self, room: Room) -> Tensor:
        """See `ShapeAllocator`; `paper` floors each head and loses what a clipped one cannot use.

        In `corrected` the total is exact and every head keeps its attention sink.
        """
        assert room.num_layers is not None
        check_heads(self.head_scores, room.num_layers, room.stored)
        scores = self.head_scores.view(room.num_layers, room.stored, -1).mean(dim=2)
        alpha = min(self.alpha, scores.numel() - 1)
        level = scores.flatten().sort().values[max(alpha - 1, 0)]
        above = (scores - level).clamp(min=0)
        if not bool((above > 0).any()):
            above = torch.ones_like(above)
        if room.corrected:
            return distribute(room.total, torch.zeros_like(above), above, 1, room.limit)
        # 1e-9: a share that is whole must not lose an entry to rounding.
        wanted = (above / above.sum() * room.total + 1e-9).floor().long()
        return wanted.clamp(max=room.limit)
