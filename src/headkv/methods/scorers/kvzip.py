"""What the model looks at to write its context once more (KVzip, arXiv 2505.23416)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.scorers.base import Scorer

_SURE = 1e4  # more than any weight, in every head


@dataclass(frozen=True, eq=False)
class KvzipScorer(Scorer):
    """The greatest weight that any token of the repetition pays, over a KV head's group too.

    Costs about two prefills more. The paper protects no window; `window_size=1` is closest.

    Attributes:
        sinks: first tokens that always stay, in every head.
    """

    name = "kvzip"
    needs = frozenset({"repetition"})
    reads: ClassVar[str] = "repetition"

    sinks: Annotated[int, Field(ge=0)] = 4

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        noted = evidence.second_pass(self.reads)[:, : evidence.candidates(self.window_size)]
        scores = reduce_groups(noted, stored, "max").clone()
        scores[:, : self.sinks] = _SURE
        return scores
