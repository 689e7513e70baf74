"""Layer budgets follow how much each layer suffers (CompressKV, arXiv 2508.02401)."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.base import Room, ShapeAllocator
from headkv.methods.allocators.sharing import distribute
from headkv.methods.part import Count, table_of

_DO = "measure it: headkv importance model=..., or set layer_importance=uniform"


@dataclass(frozen=True, eq=False)
class LayerImportanceAllocator(ShapeAllocator):
    """Every layer its floor, the rest by importance; all heads of a layer keep the same.

    Attributes:
        layer_importance: float `[layer]`, not negative, from `load_layer_importance`; `uniform`:
            the same budget in every layer, as in the published code without such a file.
        layer_floor: tokens that every layer keeps (32 in the published code); no more than
            `kv_size`, no less than the window, the template's tail and one more.
        layer_cap: most that a layer keeps, in multiples of `kv_size` (3 in the published code).
    """

    name = "layer_importance"
    even = True
    resources = ("layer_importance",)

    layer_importance: Any = None
    layer_floor: Count = 32
    layer_cap: Count = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.layer_importance
        if given is None:
            raise UserError(
                f"{self.name} without layer importance",
                allowed="a file of this model, or uniform",
                do=_DO,
            )
        if not (isinstance(given, str) and given == "uniform"):
            given = table_of(given, "layer importance", 1, _DO)
            object.__setattr__(self, "layer_importance", given)

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' importance only."""
        given = self.layer_importance
        return self if isinstance(given, str) else replace(self, layer_importance=given[layers])

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """See `Part`."""
        if not isinstance(self.layer_importance, str) and len(self.layer_importance) != num_layers:
            raise UserError(
                f"layer importance of {len(self.layer_importance)} layers",
                allowed=f"one for each of {num_layers} layers",
                do="set layer_importance= to a file of this model",
            )

    def depth(self, layer: int, num_layers: int | None) -> int:
        """The file knows how many layers the model has."""
        given = self.layer_importance
        return super().depth(layer, num_layers) if isinstance(given, str) else len(given)

    def shares(self, num_layers: int) -> Tensor:
        """Each layer's part of what is shared out beside the floors, float64 `[layer]`, sum 1."""
        given = self.layer_importance
        if isinstance(given, str) or not bool((given > 0).any()):
            given = torch.ones(num_layers, dtype=torch.float64)
        shares: Tensor = given / given.sum()
        return shares

    def budgets(self, room: Room) -> Tensor:
        """Every layer its floor, the rest by importance; `paper` loses what a prompt has not.

        Both start from floor + importance * rest, cut to [floor, cap * kv_size]. `paper` rounds
        each layer and then makes up the difference one token at a time, in rounds over the layers;
        `corrected` shares what is cut off among the other layers in proportion.
        """
        assert room.num_layers is not None
        self.check_model(room.num_layers, 0)
        tail, kv_size = room.kept_tail, room.kv_size
        low = max(min(self.layer_floor, kv_size), tail + 1) - tail
        high = self.layer_cap * kv_size - tail
        total, shares = room.mean * room.num_layers, self.shares(room.num_layers)
        if room.corrected:
            base = torch.full_like(shares, low)
            rows = distribute(total, base, shares, low, min(high, room.limit))
        else:
            wanted = low + (shares * (total - low * room.num_layers)).round().long()
            rows = _by_ones(wanted.clamp(low, high), shares, total, low, high)
            rows = rows.clamp(max=room.limit)
        return rows[:, None].repeat(1, room.stored)


def _by_ones(rows: Tensor, shares: Tensor, total: int, low: int, high: int) -> Tensor:
    """Adds to the most important layers first, or takes from the least important, in rounds.

    Args:
        rows: int64 `[layer]`, each in [low, high].
        shares: float64 `[layer]`.
        total: what the result sums to, if the bounds allow it.
        low: fewest a layer may have.
        high: most a layer may have.
    """
    counts: list[int] = rows.tolist()
    order: list[int] = shares.argsort(descending=True, stable=True).tolist()
    while missing := total - sum(counts):
        step = 1 if missing > 0 else -1
        able = [layer for layer in order[::step] if low <= counts[layer] + step <= high]
        if not able:
            break
        for layer in able[: abs(missing)]:
            counts[layer] += step
    return torch.tensor(counts)
