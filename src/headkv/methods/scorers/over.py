"""Scorers over another scorer, whose scores they work on."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from headkv.errors import UserError
from headkv.methods.evidence import Evidence
from headkv.methods.part import Setting
from headkv.methods.scorers.base import Scorer
from headkv.methods.scorers.window import WindowScorer


@dataclass(frozen=True, eq=False)
class OverScorer(Scorer):
    """Works on the scores of a base scorer, whatever it is; as it stands, hands them on.

    Attributes:
        base: the scorer; in a yaml its name, or its name and parameters. Its observation window
            is this scorer's.
    """

    base: Any = field(default_factory=WindowScorer)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, Scorer):
            raise UserError(
                f"{self.name}: base={self.base!r}",
                allowed="a scorer's name, or {name: NAME, PARAMETER: VALUE}",
                do="change base=",
            )
        object.__setattr__(self, "base", replace(self.base, window_size=self.window_size))
        object.__setattr__(self, "needs", type(self).needs | self.base.needs)
        for what in ("reads_budget", "reranks", "across_heads"):
            object.__setattr__(self, what, getattr(type(self), what) or getattr(self.base, what))

    @property
    def parameters(self) -> dict[str, Any]:
        """See `Part`; the base's stand under its name."""
        return {**super().parameters, "base": {"name": self.base.name, **self.base.parameters}}

    def setting(self, path: str) -> Setting:
        """See `Part`; the base's window is this scorer's."""
        if path == "base.window_size":
            raise self._lacks("parameter to choose", path)
        return super().setting(path)

    def number(self, path: str) -> float:
        """See `Part` and `setting`."""
        if path.startswith("base."):
            self.setting(path)
        return super().number(path)

    def for_layers(self, layers: list[int]) -> Self:
        """See `Part`."""
        return replace(self, base=self.base.for_layers(layers))

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """See `Part`."""
        self.base.check_model(num_layers, num_query_heads)

    def read(self, evidence: Evidence) -> None:
        """See `Scorer`."""
        self.base.read(evidence)

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        return self.changed(self.base.scores(evidence, stored))

    def scores_within(self, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """See `Scorer`."""
        return self.changed(self.base.scores_within(evidence, stored, mean))

    def ranking(self, evidence: Evidence, scores: Tensor, counts: Tensor) -> Tensor:
        """See `Scorer`."""
        return self.base.ranking(evidence, scores, counts)

    def changed(self, scores: Tensor) -> Tensor:
        """What becomes of the base's scores, `[stored_head, candidate]`."""
        return scores
