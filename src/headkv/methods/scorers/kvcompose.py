"""What task prompts behind the context look at (KVCompose, arXiv 2509.05165)."""

from dataclasses import dataclass

from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class KvcomposeScorer(Scorer):
    """The greatest weight that any token of a task prompt pays, mean over the group, plus the mean
    over all heads of the layer.

    The paper's task prompts are not known; ours stand in `headkv.generation.reading`. Costs a short
    second pass.
    """

    name = "kvcompose"
    needs = frozenset({"task_prompts"})

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        noted = evidence.second_pass("task_prompts")[:, : evidence.candidates(self.window_size)]
        return reduce_groups(noted, stored, "mean") + noted.mean(dim=0)
