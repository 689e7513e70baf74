"""CompressKV (arXiv 2508.02401): a few heads of each layer choose its tokens, for all its heads."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.allocators.sharing import distribute
from headkv.methods.evidence import Observation, pool
from headkv.methods.scored import HeadScored


@dataclass(frozen=True, eq=False)
class CompressKV(HeadScored):
    """One set of tokens a layer, chosen by its semantic retrieval heads; budgets differ by layer.

    Stored per KV head under either protocol unless told otherwise: all heads of a layer keep the
    same tokens, so a list for each query head would hold every entry several times.

    Attributes:
        layer_importance: float `[layer]`, not negative, from `load_layer_importance`; None: the
            same budget in every layer, as in the published code without such a file.
        top_heads: query heads of each layer that choose (4 in the paper).
        layer_floor: tokens that every layer keeps (32 in the published code); no more than
            `kv_size`, no less than the window, the template's tail and one more.
        layer_cap: most that a layer keeps, in multiples of `kv_size` (3 in the published code).
    """

    kernel_size: int = 5
    pooling: str = "avg"
    kind: str = "semantic"
    layer_importance: Tensor | None = None
    top_heads: int = 4
    layer_floor: int = 32
    layer_cap: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "granularity", self.granularity or "kv_head")
        super().__post_init__()
        for key in ("top_heads", "layer_floor", "layer_cap"):
            if getattr(self, key) < 1:
                raise UserError(
                    f"{key}={getattr(self, key)}", allowed="1 or more", do=f"raise {key}="
                )
        if self.layer_importance is None:
            return
        importance = self.layer_importance.detach().double().cpu()
        good = importance.ndim == 1 and torch.isfinite(importance).all() and (importance >= 0).all()
        if not good or len(importance) != len(self.table):
            raise UserError(
                f"layer importance of shape {tuple(importance.shape)}",
                allowed=f"finite, not negative, one for each of {len(self.table)} layers",
                do="set layer_importance= to a file of this model",
            )
        object.__setattr__(self, "layer_importance", importance)

    def for_layers(self, layers: list[int]) -> Self:
        """Keeps these layers' scores and importance only."""
        importance = self.layer_importance
        return replace(
            self,
            head_scores=self.table[layers],
            layer_importance=None if importance is None else importance[layers],
        )

    def shares(self) -> Tensor:
        """Each layer's part of what is shared out beside the floors, float64 `[layer]`, sum 1."""
        importance = self.layer_importance
        if importance is None or not bool((importance > 0).any()):
            importance = torch.ones(len(self.table), dtype=torch.float64)
        return importance / importance.sum()

    def shared_budgets(self, num_layers: int, stored: int, mean: int, limit: int) -> Tensor:
        """Every layer its floor, the rest by importance; `paper` loses what a prompt has not.

        Both start from floor + importance * rest, cut to [floor, cap * kv_size]. `paper` rounds
        each layer and then makes up the difference one token at a time, in rounds over the layers;
        `corrected` shares what is cut off among the other layers in proportion.
        """
        self.check_shape(num_layers, stored)
        assert self.kv_size is not None
        tail = self.kv_size - mean
        low = max(min(self.layer_floor, self.kv_size), tail + 1) - tail
        high = self.layer_cap * self.kv_size - tail
        total, shares = mean * num_layers, self.shares()
        if self.corrected:
            base = torch.full_like(shares, low)
            rows = distribute(total, base, shares, low, min(high, limit))
        else:
            wanted = low + (shares * (total - low * num_layers)).round().long()
            rows = _by_ones(wanted.clamp(low, high), shares, total, low, high).clamp(max=limit)
        return rows[:, None].repeat(1, stored)

    def scores(self, observation: Observation) -> Tensor:
        """Mean over the layer's best heads of their pooled window scores, one row for all."""
        heads, kv_heads = observation.queries.shape[0], observation.keys.shape[0]
        self.check_shape(self.depth(observation), heads)
        ranked = self.table[observation.layer].argsort(descending=True, stable=True)
        chosen = ranked[: self.top_heads].to(observation.keys.device)
        pooled = pool(observation.attention[chosen], self.kernel_size, self.pooling)
        return pooled.mean(dim=0).repeat(self.stored_heads(heads, kv_heads), 1)


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
