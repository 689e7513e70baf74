"""Window attention smoothed over sentences and lines in place of a fixed width (this project's)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.part import Count
from headkv.methods.scorers.window import WindowScorer

_LEAST = 1e-30  # of a mean that is divided by
_TIE = 1e-3  # weight of the narrow pooling that only orders the tokens of a span


@dataclass(frozen=True, eq=False)
class SpanScorer(WindowScorer):
    """Each span's mean or maximum, joined with a narrow pooling of fixed width.

    A fact is as long as its sentence: a narrow pooling keeps half of it, a wide one of fixed width
    keeps what stands beside it too.

    Attributes:
        kernel_size: odd width of the narrow pooling.
        pooling: `max` or `avg`, of the narrow pooling.
        wide: what a span's tokens are worth together: its `avg` or `max`.
        join: `tie`: the span decides and the narrow pooling orders its tokens; `sum`: both count,
            each divided by its mean over the head.
        longest: tokens after which a span ends, whatever the text says.
    """

    name = "span"
    needs = frozenset({"span_ends"})

    wide: Literal["avg", "max"] = "max"
    join: Literal["tie", "sum"] = "sum"
    longest: Count = 40

    def pooled(self, evidence: Evidence) -> Tensor:
        """See `WindowScorer`; not shared."""
        return self.smoothed(evidence, evidence.attention(self.window_size, self.aggregation))

    def smoothed(self, evidence: Evidence, attention: Tensor) -> Tensor:
        """See `WindowScorer`."""
        narrow = super().smoothed(evidence, attention)
        wide = self.over_spans(evidence, attention, self.wide)
        if self.join == "tie":
            return wide + _TIE * narrow
        return by_mean(wide) + by_mean(narrow)

    def over_spans(self, evidence: Evidence, scores: Tensor, how: Literal["avg", "max"]) -> Tensor:
        """Each token's span's mean or maximum, `[head, token]`.

        Args:
            evidence: knows where spans end.
            scores: `[head, token]`, of the first tokens.
            how: `avg` or `max`.
        """
        spans = spans_of(evidence.span_ends[: scores.shape[1]], self.longest)
        index = spans.expand_as(scores)
        found = scores.new_zeros(len(scores), int(spans[-1]) + 1)
        how_reduced = "mean" if how == "avg" else "amax"
        found.scatter_reduce_(1, index, scores, how_reduced, include_self=False)
        return found.gather(1, index)


def spans_of(ends: Tensor, longest: int) -> Tensor:
    """The span that each token belongs to, counted from 0.

    Args:
        ends: whether a span ends with the token, bool `[token]`.
        longest: tokens after which a span ends in any case.

    Returns:
        int64 `[token]`, ascending.
    """
    places = torch.arange(len(ends), device=ends.device)
    starts = torch.ones_like(ends)
    starts[1:] = ends[:-1]
    since = places - torch.where(starts, places, 0).cummax(dim=0).values
    return (since % longest == 0).cumsum(dim=0) - 1


def by_mean(scores: Tensor) -> Tensor:
    """Scores `[head, token]` as multiples of their mean over the head."""
    return scores / scores.mean(dim=-1, keepdim=True).clamp(min=_LEAST)
