"""Controls of HeadKV (arXiv 2410.19258): its budgets from scores that know nothing of the heads."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from headkv.errors import choose
from headkv.methods.headkv import HeadKV

CONTROLS = ["random", "uniform"]


@dataclass(frozen=True, eq=False)
class HeadKVControl(HeadKV):
    """HeadKV with its scores replaced; of the score file only the shape is used.

    `permute_seed` of `HeadKV` is the third control: the file's own scores, on other heads.

    Attributes:
        control: `random` draws every head's score evenly from 0 to 1; `uniform` gives all the
            same, which is SnapKV exactly.
        seed: of the draw.
    """

    control: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("control", self.control, CONTROLS)
        scores = torch.ones_like(self.table)
        if self.control == "random":
            generator = torch.Generator().manual_seed(self.seed)
            scores = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
        object.__setattr__(self, "head_scores", scores)

    def for_layers(self, layers: list[int]) -> Any:
        """Plain HeadKV with the scores that these layers have already been given."""
        own = {each.name: getattr(self, each.name) for each in fields(HeadKV)}
        return HeadKV(**{**own, "head_scores": self.table[layers], "permute_seed": None})
