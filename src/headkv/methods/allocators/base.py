"""What an allocator is: how many of a prompt's entries each stored head keeps.

What is shared out is the budget beside what always stays (observation window, template's tail).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from headkv.errors import UserError
from headkv.methods.evidence import Evidence
from headkv.methods.part import Part

Scope = Literal["shape", "layer", "model"]


@dataclass(frozen=True)
class Room:
    """What an allocator shares out, and among whom.

    Attributes:
        num_layers: layers that are compressed; None where the caller does not know.
        stored: stored heads a layer.
        mean: tokens to share out per stored head.
        limit: candidates, the most that a head can use.
        kept_tail: tokens that every head keeps besides.
        corrected: whether totals are exact (`corrected`) or as published (`paper`).
        layers: what may be looked at beside the scores: the layer, or all layers, of the prompt.
    """

    num_layers: int | None
    stored: int
    mean: int
    limit: int
    kept_tail: int
    corrected: bool
    layers: Sequence[Evidence] = ()

    @property
    def total(self) -> int:
        """Tokens to share out over all heads of all layers."""
        return self.mean * self.stored * (self.num_layers or 1)

    @property
    def kv_size(self) -> int:
        """Mean tokens a stored head keeps, what always stays included."""
        return self.mean + self.kept_tail

    def checked(self, counts: Tensor, who: str, layers: int) -> Tensor:
        """What an allocator decided, if it is a possible budget.

        Args:
            counts: `[layer, stored_head]`, if it is right.
            who: the method and its allocator, for the message.
            layers: that it decided on.

        Raises:
            UserError: of another shape, out of bounds, or in `corrected` of another total.
        """
        wanted, total = (layers, self.stored), self.mean * layers * self.stored
        least = int(self.corrected)  # the sink
        if tuple(counts.shape) != wanted or counts.is_floating_point():
            what = f"{counts.dtype} budgets of shape {tuple(counts.shape)}"
            allowed = f"whole numbers {wanted}: [layer, stored head]"
        elif int(counts.min()) < least or int(counts.max()) > self.limit:
            what = f"budgets from {int(counts.min())} to {int(counts.max())}"
            allowed = f"{least} to {self.limit} candidates a head"
        elif self.corrected and int(counts.sum()) != total:
            what, allowed = f"{int(counts.sum())} candidates in all", f"exactly {total}"
        else:
            return counts
        raise UserError(f"{who} gave {what}", allowed=allowed, do="mend the allocator")


@dataclass(frozen=True, eq=False)
class Allocator(Part, ABC):
    """Decides how many candidates each stored head keeps.

    Attributes:
        scope: what it must know. `shape`: sizes alone; `layer`: the layer's scores; `model`: the
            scores of all layers before any layer is cut.
        keeps_all: whether every token stays and `kv_size` is ignored.
        even: whether all heads of a layer are given as many.
    """

    scope: ClassVar[Scope] = "shape"
    keeps_all: ClassVar[bool] = False
    even: ClassVar[bool] = False

    def depth(self, layer: int, num_layers: int | None) -> int:
        """Layers to share among, where `layer` is compressed and the caller may not know the rest.

        Raises:
            UserError: the allocator must know.
        """
        return num_layers or layer + 1


class ShapeAllocator(Allocator):
    """An allocator whose budgets follow from sizes alone."""

    @abstractmethod
    def budgets(self, room: Room) -> Tensor:
        """Candidates that each stored head keeps, int64 `[layer, stored_head]`."""


class LayerAllocator(Allocator):
    """An allocator that shares a layer's budget by that layer's scores."""

    scope = "layer"

    @abstractmethod
    def counts(self, room: Room, scores: Tensor) -> Tensor:
        """Candidates that each stored head of a layer keeps.

        Args:
            room: of the layer.
            scores: float32 `[stored_head, candidate]`.

        Returns:
            int64 `[stored_head]`, on any device.
        """


class ModelAllocator(Allocator):
    """An allocator that shares the whole budget by the scores of all layers.

    A stock `generate` then holds the full keys and values of all layers until the last one has
    been prefilled: peak memory is that of the uncompressed cache.
    """

    scope = "model"

    @abstractmethod
    def table(self, room: Room, scores: Sequence[Tensor]) -> Tensor:
        """Candidates that each stored head of each layer keeps.

        Args:
            room: of the model.
            scores: of every layer, float32 `[stored_head, candidate]`.

        Returns:
            int64 `[layer, stored_head]`.
        """
