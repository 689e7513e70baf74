"""Evicted values are merged into kept entries with similar keys (kvpress's MergingPress)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headkv.kernels.ragged import Ragged
from headkv.methods.entries.base import Entries
from headkv.methods.evidence import Evidence
from headkv.methods.kept import Kept

_CHUNK = 2048  # evicted entries compared at a time


@dataclass(frozen=True, eq=False)
class MergeEntries(Entries):
    """Each evicted value goes to the kept entry whose key is most like its own; keys stay.

    It counts as much as the keys agree, and less the smaller it is beside the value it joins:
    `max(cos, 0) * |v_evicted| / (|v_evicted| + |v_kept| + 1e-6)`; a kept entry weighs 1. The bytes
    are those of `gather`.

    Attributes:
        threshold: cosine of keys below which an entry is dropped after all.
        merge_fraction: part of the evicted entries, those of the largest cosines, that is merged.
    """

    name = "merge"
    gathers = False

    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.0
    merge_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0

    def gather(self, evidence: Evidence, kept: Kept) -> Ragged:
        """See `Entries`."""
        ragged = super().gather(evidence, kept)
        values, group = evidence.values, len(kept.counts) // evidence.kv_heads
        assert values is not None
        parts = []
        for head, positions in enumerate(kept.by_head()):
            place = head // group
            parts.append(self._merged(evidence.keys[place], values[place], positions))
        return Ragged(ragged.keys, torch.cat(parts).to(values.dtype), ragged.counts)

    def _merged(self, keys: Tensor, values: Tensor, kept: Tensor) -> Tensor:
        """The kept values of one head with what was merged into them, float32.

        Args:
            keys: `[token, head_dim]`.
            values: `[token, value_dim]`.
            kept: int64 `[entries]`.
        """
        gone = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        gone[kept] = False
        evicted = gone.nonzero()[:, 0]
        mine = values[kept].float()
        if not len(evicted):
            return mine
        directions = functional.normalize(keys.float(), dim=1)
        found = [
            (directions[some] @ directions[kept].T).max(dim=1) for some in evicted.split(_CHUNK)
        ]
        likeness = torch.cat([each.values for each in found])
        target = torch.cat([each.indices for each in found])
        order = likeness.argsort(descending=True, stable=True)
        order = order[: int(self.merge_fraction * len(evicted))]
        order = order[likeness[order] >= self.threshold]
        likeness, target, theirs = likeness[order], target[order], values[evicted[order]].float()
        size, other = theirs.norm(dim=1), mine.norm(dim=1)[target]
        weights = likeness.clamp(min=0) * size / (size + other + 1e-6)
        total = torch.ones_like(mine[:, 0]).index_add(0, target, weights)
        return mine.index_add(0, target, weights[:, None] * theirs) / total[:, None]
