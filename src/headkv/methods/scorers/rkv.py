"""Important and not redundant (R-KV, arXiv 2505.24133), made for long reasoning while decoding."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from headkv.kernels.dense import soft_cap
from headkv.methods.evidence import Evidence, pool
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer

_CHUNK = 2**24  # similarities formed at a time


@dataclass(frozen=True, eq=False)
class RkvScorer(Scorer):
    """What recent queries attend to, less what other keys say too.

    Importance is a softmax over the candidates alone. A token's redundancy is the softmax of how
    similar all keys are to its own on average; of the keys similar to a key, the latest is spared.

    Attributes:
        kernel_size: width of the pooling of importance.
        group_reduce: how the logits of a KV head's query heads are joined (`max` in its code).
        weight: of importance; redundancy has the rest (0.07 in the paper's code).
        threshold: cosine above which two keys are similar.
    """

    name = "rkv"

    kernel_size: Count = 7
    group_reduce: Literal["max", "mean"] = "max"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.07
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        candidates = evidence.candidates(self.window_size)
        redundant = self._redundancy(evidence.keys)[:, :candidates]
        redundant = redundant.repeat_interleave(stored // evidence.kv_heads, dim=0)
        return self.weight * self._importance(evidence, stored, candidates) - (
            (1 - self.weight) * redundant
        )

    def _importance(self, evidence: Evidence, stored: int, candidates: int) -> Tensor:
        queries = evidence.window(self.window_size).float()
        scaling = queries.shape[2] ** -0.5 if evidence.scaling is None else evidence.scaling
        rows = queries.reshape(evidence.kv_heads, -1, queries.shape[2]) * scaling
        logits = torch.bmm(rows, evidence.keys[:, :candidates].float().mT)
        logits = soft_cap(logits, evidence.softcap).view(stored, -1, self.window_size, candidates)
        joined = logits.amax(1) if self.group_reduce == "max" else logits.mean(1)
        return pool(joined.softmax(-1).mean(1), self.kernel_size, "max")

    def _redundancy(self, keys: Tensor) -> Tensor:
        """Softmax over tokens of each key's mean similarity to all, `[kv_head, token]`."""
        unit = normalize(keys.float(), dim=-1)
        heads, tokens, _ = unit.shape
        total = unit.new_zeros(heads, tokens)
        place = torch.arange(tokens, device=keys.device)
        step = max(_CHUNK // (heads * tokens), 1)
        for first in range(0, tokens, step):
            own = place[first : first + step]
            alike = torch.bmm(unit[:, own], unit.mT)
            alike[:, own - first, own] = 0
            last = torch.where(alike > self.threshold, place, -1).amax(-1, keepdim=True)
            spared = alike.gather(-1, last.clamp(min=0)) * (last < 0)
            alike.scatter_(-1, last.clamp(min=0), spared)
            total += alike.sum(1)
        return (total / tokens).softmax(-1)
