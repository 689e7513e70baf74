"""KVzip's weights times what a value adds, relative to the reader (KVzip+, arXiv 2601.07891)."""

from dataclasses import dataclass
from typing import ClassVar

from headkv.methods.scorers.kvzip import KvzipScorer


@dataclass(frozen=True, eq=False)
class KvzipPlusScorer(KvzipScorer):
    """Before the maximum, a weight is multiplied by the norm of the projected value and divided by
    the norm of the repeating token's hidden state, as it reaches the attention module.
    """

    name = "kvzip_plus"
    needs = frozenset({"weighted_repetition"})
    reads: ClassVar[str] = "weighted_repetition"
