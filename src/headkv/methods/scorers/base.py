"""What a scorer is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.evidence import Evidence
from headkv.methods.part import Count, Part


@dataclass(frozen=True, eq=False)
class Scorer(Part, ABC):
    """Ranks the tokens of one layer of one prompt.

    Attributes:
        needs: what it reads beside the window's queries and the keys, of `evidence.NEEDS`;
            together with other cells' it decides what a prefill records.
        window_size: latest tokens of the user's text that always stay, in every head; the chat
            template's tail stays besides.
        while_decoding: whether what it reads still exists when entries are cut again.
        across_heads: whether it compares heads entry by entry, so that all must hold as many.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    while_decoding: ClassVar[bool] = True
    across_heads: ClassVar[bool] = False

    window_size: Count = 8

    @abstractmethod
    def scores(self, evidence: Evidence, stored: int) -> Tensor:
        """Ranks the candidates: all tokens before the window.

        Args:
            evidence: the layer; what it gives is shared with other cells and not written to.
            stored: stored heads, the number of KV heads or of query heads.

        Returns:
            float32 `[stored_head, candidate]`, finite; higher is kept, of equals the earlier token.
        """

    def checked(self, evidence: Evidence, stored: int, method: str) -> Tensor:
        """`scores`, if they are a ranking of the candidates.

        Args:
            evidence: the layer.
            stored: stored heads.
            method: whose scorer it is, for the message.

        Raises:
            UserError: of another shape, or not finite.
        """
        scores = self.scores(evidence, stored)
        wanted = (stored, evidence.candidates(self.window_size))
        if tuple(scores.shape) != wanted:
            raise UserError(
                f"{method}'s scorer {self.name} gave scores of shape {tuple(scores.shape)}",
                allowed=f"{wanted}: [stored head, candidate], the window and template left out",
                do="mend the scorer",
            )
        if not bool(torch.isfinite(scores).all()):
            raise UserError(
                f"{method}'s scorer {self.name} gave scores that are not finite",
                allowed="finite numbers",
                do="mend the scorer, or load the model in a wider dtype",
            )
        return scores
