"""Keys of small norm matter (L2 norm, arXiv 2406.11430)."""

from dataclasses import dataclass

from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class KeyNormScorer(Scorer):
    """The smaller a key's Euclidean norm, the better; query heads share their KV head's ranking.

    The window is this project's: the published method protects none; `window_size=1` is closest.
    """

    name = "key_norm"

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        keys = evidence.keys[:, : evidence.candidates(self.window_size)].float()
        return (-keys.norm(dim=-1)).repeat_interleave(stored // evidence.kv_heads, dim=0)
