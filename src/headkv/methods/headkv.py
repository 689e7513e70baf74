"""HeadKV (arXiv 2410.19258): heads that retrieve (and reason) keep more, over the whole model."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headkv.budget import distribute
from headkv.errors import UserError
from headkv.methods.base import Method
from headkv.scoring import Observation


@dataclass(frozen=True, eq=False)
class HeadKV(Method):
    """SnapKV's tokens; budgets follow head scores measured once per model.

    HeadKV-R and HeadKV-R2 differ only in the score file (retrieval, retrieval-reasoning).

    Attributes:
        head_scores: float `[layer, query_head]`, not negative, from `load_head_scores`.
        kind: which of a model's score files belongs to the method; the runner reads it.
        beta: 1 / beta of the budget goes into the pool that the scores share out, the rest is
            every head's floor. Larger beta means a smaller pool.
        temperature: exponent of the normalised scores (1 in the paper).
        permute_seed: shuffles the scores over all heads, a control: budgets keep their shape and
            lose their meaning.
    """

    head_scores: Tensor | None = None
    kind: str = "retrieval"
    beta: float = 1.2
    temperature: float = 1.0
    permute_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 1:
            raise UserError(f"beta={self.beta}", allowed="1 or more", do="set beta=1.2")
        if self.head_scores is None:
            raise UserError(
                "HeadKV without head scores",
                allowed="a score file of this model",
                do="set head_scores=FILE, or compute one: make heads MODEL=...",
            )
        scores = self.head_scores.detach().double().cpu()
        if scores.ndim != 2 or not bool(torch.isfinite(scores).all() and (scores >= 0).all()):
            raise UserError(
                f"head scores of shape {tuple(scores.shape)}",
                allowed="finite, not negative, [layer, query head]",
                do="recompute them: make heads MODEL=...",
            )
        if self.permute_seed is not None:
            generator = torch.Generator().manual_seed(self.permute_seed)
            shuffled = torch.randperm(scores.numel(), generator=generator)
            scores = scores.flatten()[shuffled].view_as(scores)
        object.__setattr__(self, "head_scores", scores)

    def for_layers(self, layers: list[int]) -> "HeadKV":
        """Keeps these layers' scores only."""
        assert self.head_scores is not None
        return replace(self, head_scores=self.head_scores[layers], permute_seed=None)

    def shares(self, stored: int) -> Tensor:
        """The part of the pool that belongs to each stored head, `[layer, stored_head]`, sum 1.

        A KV head's score is that of its query heads joined by `group_reduce`.
        """
        scores = self.head_scores
        assert scores is not None
        if scores.shape[1] % stored:
            raise UserError(
                f"head scores for {scores.shape[1]} heads a layer, asked for {stored}",
                allowed="scores of this model",
                do="set head_scores= to a file of this model",
            )
        grouped = scores.view(scores.shape[0], stored, -1)
        joined = grouped.amax(dim=2) if self.group_reduce == "max" else grouped.sum(dim=2)
        if not bool((joined > 0).any()):
            joined = torch.ones_like(joined)
        tempered = (joined / joined.sum()) ** self.temperature
        return tempered / tempered.sum()

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """Floor for every head, the pool by score; `paper` loses what a clipped head cannot use."""
        shares = self.shares(stored)
        if shares.shape[0] != num_layers:
            raise UserError(
                f"head scores for {shares.shape[0]} layers, the model has {num_layers}",
                allowed="scores of this model",
                do="set head_scores= to a file of this model",
            )
        pooled = int(mean / self.beta)
        floor = mean - pooled
        if self.corrected:
            base = torch.full_like(shares, floor)
            return distribute(mean * shares.numel(), base, shares, 1, limit)
        wanted = (shares * (pooled * shares.numel()) + floor).round().long()
        return wanted.clamp(max=limit)

    def depth(self, observation: Observation) -> int:
        """The score file knows how many layers the model has."""
        assert self.head_scores is not None
        return self.head_scores.shape[0]
