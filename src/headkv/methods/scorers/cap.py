"""Values that few others can stand for, weighed by what queries look for (CapKV, 2604.25975)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, protected


@dataclass(frozen=True, eq=False)
class CapScorer(Scorer):
    """Weighted leverage of values; the weight is how a key lies to the mean query (CapKV).

    As in kvpress and not in the paper (arXiv 2604.25975), the mean query is rotated to the
    positions to come, and it and the keys are made of length 1.

    Attributes:
        sinks: first tokens, which stay and are no part of the mean.
        future: positions behind the prompt over which the rotation is averaged.
        sharpness: factor of the cosine in the weight's exponent (5 in kvpress).
        epsilon: added to the weights in the matrix.
    """

    name = "cap"
    needs = frozenset({"query_statistics", "values"})

    window_size: Count = 1
    sinks: Annotated[int, Field(ge=0)] = 4
    future: Count = 512
    sharpness: Annotated[float, Field(gt=0)] = 5.0
    epsilon: Annotated[float, Field(ge=0)] = 1e-6

    def read(self, evidence: Evidence) -> None:
        """See `Scorer`."""
        evidence.query_mean(self.sinks)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        here = slice(self.sinks, evidence.visible)
        mean = evidence.query_mean(self.sinks) @ evidence.rotation_to_come(self.future)
        keys = functional.normalize(evidence.keys[:, here].float(), dim=-1)
        values = evidence.given_values[:, here].float()
        group = evidence.query_heads // evidence.kv_heads
        cosines = functional.normalize(mean).unflatten(0, (-1, group)) @ keys.mT
        best = cosines.amax(dim=-1, keepdim=True) if cosines.shape[2] else 0
        weights = (self.sharpness * (cosines - best)).exp()  # [kv head, group, token]
        rows = values[:, None]
        matrix = (rows * (weights + self.epsilon)[..., None]).mT @ rows
        unit = torch.eye(values.shape[2], device=values.device)
        root = torch.linalg.cholesky(matrix + unit)
        inverse = torch.linalg.solve_triangular(root, unit.expand_as(root), upper=False)
        scores = (weights * (rows @ inverse.mT).square().sum(dim=-1)).flatten(0, 1)
        scores = reduce_groups(scores, stored, "mean")
        return protected(scores, self.sinks, evidence.candidates(self.window_size))
