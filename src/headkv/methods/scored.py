"""What the methods share that need scores of every query head, measured once per model."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.evidence import Observation
from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class HeadScored(Method):
    """A method that reads head scores.

    Attributes:
        head_scores: float `[layer, query_head]`, not negative, from `load_head_scores`; float64 on
            the CPU once the method is made.
        kind: which of a model's score files belongs to the method; the runner reads it.
    """

    head_scores: Tensor | None = None
    kind: str = "retrieval"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_scores is None:
            raise UserError(
                f"{type(self).__name__} without head scores",
                allowed="a score file of this model",
                do="set head_scores=FILE, or compute one: make heads MODEL=...",
            )
        scores = self.head_scores.detach().double().cpu()
        if scores.ndim != 2 or not bool(torch.isfinite(scores).all() and (scores >= 0).all()):
            raise UserError(
                f"head scores of shape {tuple(scores.shape)}",
                allowed="finite, not negative, [layer, query head]",
                do="recompute them: make heads MODEL=...",
            )
        object.__setattr__(self, "head_scores", scores)

    @property
    def table(self) -> Tensor:
        """The scores, `[layer, query_head]`."""
        assert self.head_scores is not None
        return self.head_scores

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores only."""
        return replace(self, head_scores=self.table[layers])

    def depth(self, observation: Observation) -> int:
        """The score file knows how many layers the model has."""
        return self.table.shape[0]

    def check_shape(self, num_layers: int, heads: int) -> None:
        """Raises `UserError` unless the scores are for so many layers, and heads in groups."""
        layers, scored = self.table.shape
        if scored % heads:
            raise UserError(
                f"head scores for {scored} heads a layer, asked for {heads}",
                allowed="scores of this model",
                do="set head_scores= to a file of this model",
            )
        if layers != num_layers:
            raise UserError(
                f"head scores for {layers} layers, the model has {num_layers}",
                allowed="scores of this model",
                do="set head_scores= to a file of this model",
            )
