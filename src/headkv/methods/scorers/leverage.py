"""Keys that few others can stand for: statistical leverage (Compactor, arXiv 2507.08143)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, repeated

_RIDGE = 0.01  # added to the diagonal, as the published code does


@dataclass(frozen=True, eq=False)
class LeverageScorer(Scorer):
    """Approximate leverage of each key before RoPE, standardised over the layer.

    Attributes:
        sketch: dimensions that keys are projected to at random (48 in the published code).
        seed: of the projection, which is the same on any device.
    """

    name = "leverage"

    window_size: Count = 1
    sketch: Count = 48
    seed: Annotated[int, Field(ge=0)] = 0

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        keys = evidence.plain_keys[:, : evidence.visible]
        scores = standardised(leverage(keys, self.sketch, self.seed, evidence.layer))
        return repeated(scores[:, : evidence.candidates(self.window_size)], stored)


def leverage(keys: Tensor, sketch: int, seed: int, layer: int) -> Tensor:
    """Leverage of the rows of keys that were centred and projected at random.

    Args:
        keys: before RoPE, float32 `[kv_head, token, head_dim]`.
        sketch: dimensions of the projection.
        seed: of the projection.
        layer: another projection for each.

    Returns:
        `[kv_head, token]`, from 0 to 1.
    """
    heads, _, dim = keys.shape
    generator = torch.Generator().manual_seed(seed * 1_000_003 + layer)
    drawn = torch.randn(heads, dim, sketch, generator=generator).to(keys.device) * sketch**-0.5
    rows = (keys - keys.mean(dim=1, keepdim=True)) @ drawn
    unit = torch.eye(sketch, device=keys.device)
    root = torch.linalg.cholesky(rows.mT @ rows + _RIDGE * unit)
    # A leverage is the squared length of the row in the basis in which the Gram matrix is 1.
    inverse = torch.linalg.solve_triangular(root, unit.expand_as(root), upper=False)
    return (rows @ inverse.mT).square().sum(dim=-1)


def standardised(scores: Tensor) -> Tensor:
    """Scores of a layer with mean 0 and standard deviation 1, over heads and tokens together."""
    if scores.numel() < 2:
        return torch.zeros_like(scores)
    return (scores - scores.mean()) / scores.std().clamp(min=1e-6)
