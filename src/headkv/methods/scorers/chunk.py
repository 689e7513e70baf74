"""Whole stretches of text, the same for all heads of a layer (ChunkKV, arXiv 2502.00299)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from headkv.methods.part import Count
from headkv.methods.scorers.over import OverScorer


@dataclass(frozen=True, eq=False)
class ChunkScorer(OverScorer):
    """A token is worth the mean of its chunk's scores, summed over the heads.

    Budgets are exact: of the last chunk that fits in part, the first tokens stay (ours).

    Attributes:
        length: tokens of a chunk (20 in kvpress); the last before the window may be shorter.
    """

    name = "chunk"
    across_heads = True

    length: Count = 20

    def changed(self, scores: Tensor) -> Tensor:
        """See `OverScorer`."""
        stored, candidates = scores.shape
        summed = scores.sum(dim=0)
        missing = -candidates % self.length
        sums = functional.pad(summed, (0, missing)).view(-1, self.length).sum(dim=1)
        sums[:-1] /= self.length
        sums[-1] /= self.length - missing
        return sums.repeat_interleave(self.length)[:candidates].repeat(stored, 1)
