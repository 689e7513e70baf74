"""Keys that differ from the others matter (KeyDiff, arXiv 2504.15364)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, repeated


@dataclass(frozen=True, eq=False)
class KeyDiffScorer(Scorer):
    """Minus the cosine between a key and the mean of all keys, each of length 1.

    The published method protects no token: a window of 1 is closest.
    """

    name = "keydiff"

    window_size: Count = 1

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        scores = -likeness(evidence.keys)
        return repeated(scores[:, : evidence.candidates(self.window_size)], stored)


def likeness(keys: Tensor) -> Tensor:
    """Cosine between each key and the mean of all keys, each of length 1.

    Args:
        keys: `[kv_head, token, head_dim]`.

    Returns:
        float32 `[kv_head, token]`.
    """
    units = functional.normalize(keys.float(), dim=-1)
    anchor = functional.normalize(units.mean(dim=1, keepdim=True), dim=-1)
    return (units * anchor).sum(dim=-1)
