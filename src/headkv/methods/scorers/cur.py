"""Long keys with long values, compared with their neighbours (CurDKV, arXiv 2509.15038)."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.base import Scorer, protected, repeated

_LEAST = 1e-30  # of a sum that is divided by


@dataclass(frozen=True, eq=False)
class CurScorer(Scorer):
    """Squared norms of key and value, each as a share of its block, multiplied.

    In the first layer, keys of one token have one norm wherever they stand (a rotation keeps it),
    and values are equal: such tokens tie but for the last bit, and which of them stays can depend
    on what is prefilled or decoded beside it.

    Attributes:
        sinks: first tokens, which stay (4 in kvpress).
        block: tokens that are compared (16 there).
    """

    name = "cur"
    needs = frozenset({"values"})

    window_size: Count = 1
    sinks: Annotated[int, Field(ge=0)] = 4
    block: Count = 16

    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """See `Scorer`."""
        shares = self._shares(evidence.keys) * self._shares(evidence.given_values)
        scores = shares / shares.sum(dim=-1, keepdim=True).clamp(min=_LEAST)
        candidates = evidence.candidates(self.window_size)
        return repeated(protected(scores[:, self.sinks :], self.sinks, candidates), stored)

    def _shares(self, states: Tensor) -> Tensor:
        """Each squared norm as a share of its block's, `[kv_head, token]`."""
        squares = states.float().square().sum(dim=-1)
        blocks = functional.pad(squares, (0, -squares.shape[1] % self.block))
        blocks = blocks.unflatten(1, (-1, self.block))
        shares = blocks / blocks.sum(dim=-1, keepdim=True).clamp(min=_LEAST)
        return shares.flatten(1)[:, : squares.shape[1]]
