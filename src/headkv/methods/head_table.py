"""Tables of scores of every query head, as scorers and allocators read them."""

from typing import Any

from torch import Tensor

from headkv.errors import UserError
from headkv.methods.part import table_of

_DO = "give headkv.load_head_scores(FILE, model.config), or compute them: make heads MODEL=..."


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
