"""What a scorer is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.methods.evidence import EVERY_QUERY, Evidence
from headkv.methods.part import Count, Part


@dataclass(frozen=True, eq=False)
class Scorer(Part, ABC):
    """Ranks the tokens of one layer of one prompt.

    Attributes:
        needs: what it reads beside the window's queries and the keys, of `evidence.NEEDS`;
            together with other cells' it decides what a prefill records.
        reads_budget: whether it ranks one way or another by the budget, see `scores_within`.
        reranks: whether it has the last word once budgets are known, see `ranking`.
        window_size: latest tokens of the user's text that always stay, in every head; the chat
            template's tail stays besides.
        across_heads: whether it compares heads entry by entry, so that all must hold as many.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    across_heads: ClassVar[bool] = False
    reads_budget: ClassVar[bool] = False
    reranks: ClassVar[bool] = False

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

    def scores_within(self, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """The same where the ranking depends on the budget; `scores` for most.

        Args:
            evidence: see `scores`.
            stored: see `scores`.
            mean: candidates that a stored head keeps on average.
        """
        return self.scores(evidence, stored)

    def checked_scores(self, method: str, evidence: Evidence, stored: int, mean: int) -> Tensor:
        """The scores of `scores_within`, if they can be ranked.

        Args:
            method: its name, for the message.
            evidence: see `scores`.
            stored: see `scores`.
            mean: see `scores_within`.

        Raises:
            UserError: they are of another shape, or not finite.
        """
        scores = self.scores_within(evidence, stored, mean)
        wanted = (stored, evidence.candidates(self.window_size))
        title = f"{method}'s scorer {self.name} gave scores"
        if tuple(scores.shape) != wanted:
            raise UserError(
                f"{title} of shape {tuple(scores.shape)}",
                allowed=f"{wanted}: [stored head, candidate], the window and template left out",
                do="mend the scorer",
            )
        if not bool(torch.isfinite(scores).all()):
            raise UserError(
                f"{title} that are not finite",
                allowed="finite numbers",
                do="mend the scorer, or load the model in a wider dtype",
            )
        return scores

    def ranking(self, evidence: Evidence, scores: Tensor, counts: Tensor) -> Tensor:
        """The last word on the order, once the allocator has decided by the scores; them for most.

        Args:
            evidence: see `scores`.
            scores: of `scores_within`, shared: not written to.
            counts: candidates that each stored head keeps, int64 `[stored_head]`.

        Returns:
            float32 `[stored_head, candidate]`; each head keeps its best `counts`.
        """
        return scores

    def read(self, evidence: Evidence) -> None:
        """Asks `evidence` for what it works out from all queries, before they are freed.

        A scorer that asks with parameters other than the defaults overrides this.
        """
        for need in self.needs & EVERY_QUERY:
            found = getattr(evidence, need)
            if callable(found):
                found()


def protected(scores: Tensor, sinks: int, candidates: int) -> Tensor:
    """Scores of all candidates, where the first tokens are as good as the best of any head.

    Args:
        scores: of the tokens from `sinks` on, `[head, token]`; those past the candidates are cut.
        sinks: first tokens of the prompt.
        candidates: how many there are.
    """
    whole = scores.new_zeros(len(scores), candidates)
    if candidates > sinks:
        whole[:, sinks:] = scores[:, : candidates - sinks]
        whole[:, :sinks] = whole[:, sinks:].amax()
    return whole


def repeated(scores: Tensor, stored: int) -> Tensor:
    """Scores of KV heads for as many stored heads, `[stored_head, token]`."""
    return scores.repeat_interleave(stored // len(scores), dim=0)
