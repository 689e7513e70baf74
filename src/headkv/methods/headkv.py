"""HeadKV (arXiv 2410.19258): heads that retrieve (and reason) keep more, over the whole model."""

from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.sharing import distribute
from headkv.methods.scored import HeadScored


@dataclass(frozen=True, eq=False)
class HeadKV(HeadScored):
    """SnapKV's tokens; budgets follow head scores measured once per model.

    HeadKV-R and HeadKV-R2 differ only in the score file (retrieval, retrieval-reasoning).

    Attributes:
        beta: 1 / beta of the budget goes into the pool that the scores share out, the rest is
            every head's floor. Larger beta means a smaller pool.
        temperature: exponent of the normalised scores (1 in the paper).
        permute_seed: shuffles the scores over all heads, a control: budgets keep their shape and
            lose their meaning.
    """

    beta: float = 1.2
    temperature: float = 1.0
    permute_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)
        if self.permute_seed is not None:
            generator = torch.Generator().manual_seed(self.permute_seed)
            shuffled = torch.randperm(self.table.numel(), generator=generator)
            scores = self.table.flatten()[shuffled].view_as(self.table)
            object.__setattr__(self, "head_scores", scores)

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores only."""
        return replace(self, head_scores=self.table[layers], permute_seed=None)

    def with_beta(self, beta: float) -> Self:
        """The same scores, permuted or not, with another pool."""
        _check_beta(beta)
        other = copy(self)
        object.__setattr__(other, "beta", beta)
        return other

    def shares(self, stored: int) -> Tensor:
        """The part of the pool that belongs to each stored head, `[layer, stored_head]`, sum 1.

        A KV head's score is that of its query heads joined by `group_reduce`.
        """
        self.check_shape(self.table.shape[0], stored)
        grouped = self.table.view(self.table.shape[0], stored, -1)
        joined = grouped.amax(dim=2) if self.group_reduce == "max" else grouped.sum(dim=2)
        if not bool((joined > 0).any()):
            joined = torch.ones_like(joined)
        tempered = (joined / joined.sum()) ** self.temperature
        return tempered / tempered.sum()

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """Floor for every head, the pool by score; `paper` loses what a clipped head cannot use."""
        self.check_shape(num_layers, stored)
        shares = self.shares(stored)
        pooled = int(mean / self.beta)
        floor = mean - pooled
        if self.corrected:
            base = torch.full_like(shares, floor)
            return distribute(mean * shares.numel(), base, shares, 1, limit)
        wanted = (shares * (pooled * shares.numel()) + floor).round().long()
        return wanted.clamp(max=limit)


def _check_beta(beta: float) -> None:
    if beta < 1:
        raise UserError(f"beta={beta}", allowed="1 or more", do="set beta=1.2")
