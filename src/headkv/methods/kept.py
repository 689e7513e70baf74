"""The positions that a method keeps of one layer of one prompt."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """Which tokens of one layer of one prompt stay.

    Attributes:
        counts: int64 `[stored_head]`.
        positions: int64 `[entries]`, ascending within a head, heads one after another.
        factors: what an entry's value is multiplied with, float32 `[entries]`; None: 1.
        biases: what is added to its logit, float32 `[entries]`; None: nothing.
    """

    counts: Tensor
    positions: Tensor
    factors: Tensor | None = None
    biases: Tensor | None = None

    def by_head(self) -> list[Tensor]:
        """The positions of each stored head."""
        return list(self.positions.split(self.counts.tolist()))
