"""Budgets follow head scores, over the whole model (HeadKV, arXiv 2410.19258, and its controls)."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import distribute
from headkv.methods.head_table import HeadScored, check_heads


@dataclass(frozen=True, eq=False)
class HeadScoresAllocator(HeadScored, ShapeAllocator):
    """A floor for every head, and a pool that the scores share out.

    HeadKV-R and HeadKV-R2 differ only in the kind of scores.

    Attributes:
        beta: 1 / beta of the budget goes into the pool, the rest is every head's floor. Larger beta
            means a smaller pool.
        temperature: exponent of the normalised scores (1 in the paper).
        group_reduce: how the scores of a KV head's query heads are joined; `mean` and `sum` give
            the same shares.
        control: what becomes of the scores in an experiment's control. `permuted`: shuffled over
            all heads; `random`: drawn evenly from 0 to 1; `uniform`: all the same, which is a
            uniform budget; null: nothing.
        seed: of the shuffle or draw.
    """

    name = "head_scores"

    beta: Annotated[float, Field(ge=1)] = 1.2
    temperature: Annotated[float, Field(gt=0)] = 1.0
    group_reduce: Literal["mean", "max", "sum"] = "mean"
    control: Literal["permuted", "random", "uniform"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @cached_property
    def scores(self) -> Tensor:
        """The scores that count, `[layer, query_head]`: the file's, or the control's."""
        table: Tensor = self.head_scores
        generator = torch.Generator().manual_seed(self.seed)
        if self.control == "permuted":
            shuffled = torch.randperm(table.numel(), generator=generator)
            return table.flatten()[shuffled].view_as(table)
        if self.control == "random":
            return torch.rand(table.shape, generator=generator, dtype=torch.float64)
        return torch.ones_like(table) if self.control == "uniform" else table

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores, the control's if there is one."""
        return replace(self, head_scores=self.scores[layers], control=None)

    def shares(self, stored: int) -> Tensor:
        """The part of the pool that belongs to each stored head, `[layer, stored_head]`, sum 1."""
        grouped = self.scores.view(len(self.scores), stored, -1)
        joined = grouped.amax(dim=2) if self.group_reduce == "max" else grouped.sum(dim=2)
        if not bool((joined > 0).any()):
            joined = torch.ones_like(joined)
        tempered = (joined / joined.sum()) ** self.temperature
        return tempered / tempered.sum()

    def budgets(self, room: Room) -> Tensor:
        """Floor for every head, the pool by score; `paper` loses what a clipped head cannot use."""
        assert room.num_layers is not None
        check_heads(self.head_scores, room.num_layers, room.stored)
        shares = self.shares(room.stored)
        pooled = int(room.mean / self.beta)
        floor = room.mean - pooled
        if room.corrected:
            base = torch.full_like(shares, floor)
            return distribute(room.mean * shares.numel(), base, shares, 1, room.limit)
        wanted = (shares * (pooled * shares.numel()) + floor).round().long()
        return wanted.clamp(max=room.limit)
