"""What the last token attends to, the same for all heads of a layer (TOVA, arXiv 2401.06104)."""

from dataclasses import dataclass

from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class TovaScorer(Scorer):
    """Attention of the user's last token, averaged over all query heads of the layer.

    The published method keeps that token and protects no other: a window of 1.
    """

    name = "tova"
    across_heads = True

    window_size: Count = 1

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        mean = evidence.attention(1).mean(dim=0)
        return mean[: evidence.candidates(self.window_size)].repeat(stored, 1)
