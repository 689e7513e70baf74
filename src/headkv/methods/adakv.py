"""Ada-KV (arXiv 2407.11550): the heads of a layer compete for the layer's budget."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.sharing import distribute
from headkv.methods.evidence import Observation
from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class AdaKV(Method):
    """SnapKV's tokens; the layer's best scores over all heads decide how many each head keeps.

    Attributes:
        floor_ratio: part of the uniform budget that every head keeps (0.2 in the published code).
    """

    floor_ratio: float = 0.2

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """Refuses: the budget is decided by the prompt's attention."""
        raise UserError(
            "adakv's budgets depend on the prompt's attention and are not known before it",
            allowed="methods with a fixed budget",
            do="read cache.kept_tokens after the prefill instead",
        )

    def counts(self, observation: Observation, scores: Tensor) -> Tensor:
        """Counts each head's tokens among the layer's best, mixed with a floor.

        Each head's scores are weighted by the share of its mass that its own best tokens hold, as
        the published code does, so that heads with flat attention win fewer places.
        """
        assert self.kv_size is not None
        stored, candidates = scores.shape
        mean = self.kv_size - observation.kept_tail
        best = scores.topk(mean, dim=-1).values.sum(dim=-1)
        weighted = scores * (best / scores.sum(dim=-1))[:, None]
        order = weighted.flatten().sort(descending=True, stable=True).indices[: stored * mean]
        wins = torch.bincount(order // candidates, minlength=stored).double().cpu()
        if self.corrected:
            mixed = (1 - self.floor_ratio) * wins + self.floor_ratio * mean
            return distribute(stored * mean, mixed, torch.ones(stored), 1, candidates)
        floor = int(self.floor_ratio * mean)
        mixed = ((1 - self.floor_ratio) * wins + floor).round().long()
        return mixed.clamp(max=candidates)
