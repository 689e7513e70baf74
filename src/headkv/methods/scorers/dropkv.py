"""How much the window's outputs change if one token goes (DropKV, kvpress PR 285)."""

from dataclasses import dataclass

from torch import Tensor

from headkv.config.typed import OddCount
from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.scorers.base import Scorer

_LEAST = 1e-6  # attention left to others, where a query looks at one token alone


@dataclass(frozen=True, eq=False)
class DropKVScorer(Scorer):
    """Squared change of a head's output without the token, summed over the window's queries.

    Without token j an output o becomes o + p / (1 - p) (o - v_j), exactly (openreview MqfNzH3TVH).

    Attributes:
        kernel_size: odd width of the average along tokens (7 there); 1: none.
    """

    name = "dropkv"
    needs = frozenset({"values"})

    kernel_size: OddCount = 7

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        weights = evidence.weights(self.window_size)
        values = evidence.given_values[:, : evidence.visible].double()
        rows = weights.double().reshape(len(values), -1, values.shape[1])
        outputs = rows @ values
        # In float64, for a distance that is small because the token has all the attention is
        # multiplied with a large number.
        apart = values.square().sum(-1)[:, None] + outputs.square().sum(-1, keepdim=True)
        apart = (apart - 2 * outputs @ values.mT).clamp(min=0)
        changes = (rows / (1 - rows + _LEAST)).square() * apart
        changes = changes.view(weights.shape).sum(dim=1).float()
        scores = reduce_groups(changes[:, : evidence.candidates(self.window_size)], stored, "mean")
        return pool(scores, self.kernel_size, "avg")
