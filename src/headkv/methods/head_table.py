"""Tables of scores of every query head, and the parts that read one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from headkv.errors import UserError
from headkv.methods.part import Part, table_of
from headkv.storage.head_scores import read_scores

_DO = "set head_scores=FILE, or compute one: make heads MODEL=..."


def head_table(given: Any, part: str, kind: str) -> Tensor:
    """The table as float64 on the CPU, `[layer, query_head]`.

    Args:
        given: what the user gave; None: nothing.
        part: name of the scorer or allocator, for the message.
        kind: kind of the scores, for the message.

    Raises:
        UserError: it is missing or cannot be used.
    """
    if given is None:
        raise UserError(
            f"{part} without {kind} head scores", allowed="a score file of this model", do=_DO
        )
    if isinstance(given, str | Path):
        found = read_scores(given)[0].get("kind")
        if found not in (None, kind):
            raise UserError(
                f"{given} has {found} head scores where {part} reads {kind} ones",
                allowed=f"a file of kind {kind}",
                do=_DO,
            )
    return table_of(given, "head scores", 2, _DO)


def check_heads(table: Tensor, num_layers: int, heads: int, exact: bool = False) -> None:
    """Checks that there are scores for so many layers, and for heads in whole groups.

    Args:
        table: `[layer, query_head]`.
        num_layers: layers that are compressed.
        heads: query heads, or stored heads, a layer.
        exact: a score for each of the heads, not for several in a group of each.

    Raises:
        UserError: they are another model's.
    """
    layers, scored = table.shape
    allowed, do = "scores of this model", "give the head scores of this model"
    if scored % heads or (exact and scored != heads):
        what = f"head scores for {scored} heads a layer, asked for {heads}"
        raise UserError(what, allowed=allowed, do=do)
    if layers != num_layers:
        what = f"head scores for {layers} layers, the model has {num_layers}"
        raise UserError(what, allowed=allowed, do=do)


@dataclass(frozen=True, eq=False)
class HeadScored(Part):
    """A part that reads the scores of a model's heads.

    Attributes:
        kind: which of a model's head-score files is read: `retrieval`, `retrieval_reasoning` ...
        head_scores: float `[layer, query_head]`, not negative.
    """

    resources = ("head_scores",)

    kind: str = "retrieval"
    head_scores: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "head_scores", head_table(self.head_scores, self.name, self.kind))

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores only."""
        return replace(self, head_scores=self.head_scores[layers])

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """See `Part`."""
        check_heads(self.head_scores, num_layers, num_query_heads, exact=True)

    def depth(self, layer: int, num_layers: int | None) -> int:
        """See `Allocator`: the scores know how many layers the model has."""
        return int(self.head_scores.shape[0])
