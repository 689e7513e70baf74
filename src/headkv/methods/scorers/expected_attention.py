"""What queries to come are expected to attend to (Expected Attention, arXiv 2510.00636)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, protected, repeated


@dataclass(frozen=True, eq=False)
class ExpectedAttentionScorer(Scorer):
    """Queries to come are taken as normally distributed, as those of the prompt before RoPE are.

    Their mean and covariance are rotated to the positions that follow, on average; the expected
    exponential of a logit then has a closed form. A model's soft cap is not part of it.

    Attributes:
        sinks: first tokens, which stay and are no part of the statistics.
        future: positions behind the prompt over which the rotation is averaged.
        epsilon: added to the expected attention before it is weighed with the value's norm.
        value_norms: whether it is.
    """

    name = "expected_attention"
    needs = frozenset({"query_statistics", "values"})

    window_size: Count = 1
    sinks: Annotated[int, Field(ge=0)] = 4
    future: Count = 512
    epsilon: Annotated[float, Field(ge=0)] = 0.0
    value_norms: bool = True

    def read(self, evidence: Evidence) -> None:
        """See `Scorer`."""
        evidence.query_statistics(self.sinks)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        statistics = evidence.query_statistics(self.sinks)
        to_come = statistics.turned(evidence.rotation_to_come(self.future))
        keys = evidence.keys[:, None, self.sinks : evidence.visible].float()
        group = evidence.query_heads // evidence.kv_heads
        mean = to_come.mean.unflatten(0, (-1, group)) * evidence.logit_scaling
        spread = to_come.covariance.unflatten(0, (-1, group)) * evidence.logit_scaling**2
        logits = (keys @ mean[..., None])[..., 0] + ((keys @ spread) * keys).sum(dim=-1) / 2
        scores = reduce_groups(logits.softmax(dim=-1).flatten(0, 1), stored, "mean")
        if self.value_norms:
            values = evidence.given_values[:, self.sinks : evidence.visible]
            scores = (scores + self.epsilon) * repeated(values.float().norm(dim=-1), stored)
        return protected(scores, self.sinks, evidence.candidates(self.window_size))
