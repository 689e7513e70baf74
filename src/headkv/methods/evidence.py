"""What scorers and allocators may look at: one layer of one prompt, worked out lazily, once.

Everything here is shared by all cells of a prefill. Knows nothing of budgets, methods or models;
what needs the model (its output projection, its rotation of positions) comes in as a function.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from headkv.errors import UserError
from headkv.kernels.dense import soft_cap

SECOND_PASS = frozenset({"repetition", "task_prompts", "weighted_repetition"})
"""What a second pass over the finished cache can note, see `headkv.generation.second_pass`."""
NEEDS = (
    "values",
    "output_projection",
    "query_statistics",
    "accumulated_attention",
    *sorted(SECOND_PASS),
)
"""What a scorer may declare that it reads, beside the observation window's queries and the keys."""
_CHUNK = 256  # queries whose attention to all tokens is formed at a time


@dataclass(frozen=True)
class QueryStatistics:
    """The queries of the user's text before RoPE.

    Attributes:
        mean: float32 `[query_head, head_dim]`.
        covariance: float32 `[query_head, head_dim, head_dim]`, divided by the number of queries.
    """

    mean: Tensor
    covariance: Tensor


@dataclass(eq=False)
class Evidence:
    """One layer of one prompt.

    Attributes:
        queries: the last recorded queries after RoPE, `[query_head, query, head_dim]`; the last one
            is that of the last token of the user's text.
        keys: all keys after RoPE, `[kv_head, token, head_dim]`.
        values: all values, `[kv_head, token, value_dim]`; None where the caller has none.
        layer: index among the layers that are compressed.
        num_layers: how many are; None where the caller does not know.
        template_tokens: tokens after the user's text (the chat template's tail), always kept.
        scaling: factor of the attention logits; None means `head_dim ** -0.5`.
        softcap: the model's soft cap of attention logits, if it has one.
        unrotate: takes queries and their positions to the queries before RoPE.
        project: gives the layer's output projection by query head.
        second: what a second pass over the finished cache noted, `[query_head, token]` by what it
            is, of `SECOND_PASS`.
        probe: queries `[query_head, probe, head_dim]` and keys `[kv_head, probe, head_dim]` of a
            text behind the prompt that takes the window's place and is dropped afterwards.
        absent: rows of shorter heads that are no entries, bool `[kv_head, token]`; None: none are.
    """

    queries: Tensor
    keys: Tensor
    layer: int
    values: Tensor | None = None
    num_layers: int | None = None
    template_tokens: int = 0
    scaling: float | None = None
    softcap: float | None = None
    unrotate: Callable[[Tensor, Tensor], Tensor] | None = None
    project: Callable[[], Tensor] | None = None
    second: Mapping[str, Tensor] = field(default_factory=dict)
    probe: tuple[Tensor, Tensor] | None = None
    absent: Tensor | None = None
    _attention: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    _pooled: dict[tuple[int, str, int, str], Tensor] = field(default_factory=dict, repr=False)
    _shared: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.keys.shape[1]

    @property
    def query_heads(self) -> int:
        """Query heads of the layer."""
        return self.queries.shape[0]

    @property
    def kv_heads(self) -> int:
        """KV heads of the layer."""
        return self.keys.shape[0]

    def candidates(self, window_size: int) -> int:
        """Tokens that compete for the budget beside an observation window and the template."""
        return self.tokens - self.template_tokens - window_size

    def window(self, window_size: int) -> Tensor:
        """The observation window's queries, `[query_head, window, head_dim]`.

        Raises:
            UserError: fewer queries were recorded.
        """
        if window_size > self.queries.shape[1]:
            raise UserError(
                f"window_size={window_size}, and {self.queries.shape[1]} queries were recorded",
                allowed=f"window_size of {self.queries.shape[1]} or less",
                do="name the method when the prompt is prefilled: prefill(..., methods=[method])",
            )
        return self.queries[:, self.queries.shape[1] - window_size :]

    def absent_last(self, scores: Tensor) -> Tensor:
        """Scores `[stored_head, candidate]`, worse than all others where there is no entry."""
        if self.absent is None:
            return scores
        absent = self.absent[:, : scores.shape[1]]
        absent = absent.repeat_interleave(len(scores) // self.kv_heads, dim=0)
        return scores.masked_fill(absent, float(scores.amin()) - 1)

    def shared(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What several cells need alike, made for the first of them; not to be written to.

        Args:
            key: says what it is, whoever asks.
            make: makes it.
        """
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def attention(self, window_size: int, aggregation: str = "mean") -> Tensor:
        """Attention that the observation window pays to each candidate (SnapKV, arXiv 2404.14469).

        Softmax runs over all tokens a query can see, in float32; the window's own columns are
        dropped afterwards. Keys are not repeated for grouped queries.

        Args:
            window_size: queries of the window.
            aggregation: how the window's queries are joined: `mean`, `max`, `sum`, or `undiluted`:
                the mean of weights times the number of tokens that a query sees (FINCH's, which
                makes up for the softmax's dilution by length).

        Returns:
            float32 `[query_head, candidate]`, shared: not to be written to.
        """
        asked = (window_size, aggregation)
        if asked not in self._attention:
            weights = self.weights(window_size)[:, :, : self.candidates(window_size)]
            if aggregation == "undiluted":
                count = weights.shape[1]
                last = self.tokens - self.template_tokens + (count if self.probe else 0)
                seen = torch.arange(last - count + 1, last + 1, device=weights.device)
                weights, aggregation = weights * seen[:, None], "mean"
            self._attention[asked] = _joined(weights, 1, aggregation)
        return self._attention[asked]

    def weights(self, window_size: int) -> Tensor:
        """Attention of each of the window's queries, or the probe's, worked out at every call.

        Returns:
            float32 `[query_head, window or probe, token]`, without the template's tokens.
        """
        if self.probe is None:
            return self._weights(self.window(window_size), self.tokens - self.template_tokens)
        queries, keys = self.probe
        everything = torch.cat([self.keys, keys], 1)
        return self._weights(queries, everything.shape[1], everything)[:, :, : self.tokens]

    def pooled(self, window_size: int, aggregation: str, kernel_size: int, pooling: str) -> Tensor:
        """`attention`, smoothed along tokens by `pool`; shared likewise."""
        asked = (window_size, aggregation, kernel_size, pooling)
        if asked not in self._pooled:
            attention = self.attention(window_size, aggregation)
            self._pooled[asked] = pool(attention, kernel_size, pooling)
        return self._pooled[asked]

    @cached_property
    def output_projection(self) -> Tensor:
        """The part of the output projection that reads each query head.

        Returns:
            `[query_head, value_dim, hidden]`: a head's output times this is its contribution.
        """
        if self.project is None:
            raise self._absent("the layer's output projection")
        return self.project()

    @cached_property
    def query_statistics(self) -> QueryStatistics:
        """Mean and covariance of all queries of the user's text, before RoPE."""
        queries = self._all_queries()
        if self.unrotate is None:
            raise self._absent("the rotation of the model's queries")
        plain = self.unrotate(queries, torch.arange(queries.shape[1], device=queries.device))
        mean = plain.float().mean(dim=1)
        centred = plain.float() - mean[:, None]
        return QueryStatistics(mean, centred.mT @ centred / plain.shape[1])

    @cached_property
    def accumulated_attention(self) -> Tensor:
        """Attention that all queries of the user's text pay to each token, summed (H2O).

        Worked out for some queries at a time: no matrix of all queries and all tokens is formed.

        Returns:
            float32 `[query_head, token]`; the template's tokens have none.
        """
        queries = self._all_queries()
        visible = queries.shape[1]
        total = torch.zeros(
            self.query_heads, self.tokens, dtype=torch.float32, device=self.keys.device
        )
        for first in range(0, visible, _CHUNK):
            piece = queries[:, first : first + _CHUNK]
            end = first + piece.shape[1]
            total[:, :end] += self._weights(piece, end).sum(dim=1)
        return total

    def second_pass(self, what: str) -> Tensor:
        """Greatest attention that a second pass over the finished cache paid to each token.

        Args:
            what: of `SECOND_PASS`.

        Returns:
            float32 `[query_head, token]`.
        """
        if what not in self.second:
            raise self._absent("a second pass over the prompt")
        return self.second[what]

    def _weights(self, queries: Tensor, visible: int, keys: Tensor | None = None) -> Tensor:
        """Attention of consecutive queries, the last of which is that of token `visible - 1`.

        Returns:
            float32 `[query_head, query, visible]`.
        """
        heads, count, head_dim = queries.shape
        scaling = head_dim**-0.5 if self.scaling is None else self.scaling
        rows = queries.reshape(self.kv_heads, -1, head_dim).float() * scaling
        seen = self.keys if keys is None else keys
        logits = torch.bmm(rows, seen[:, :visible].float().transpose(1, 2))
        logits = logits.view(heads, count, visible)
        logits = soft_cap(logits, self.softcap)
        if self.absent is not None:
            hidden = functional.pad(self.absent, (0, max(visible - self.tokens, 0)))[:, :visible]
            hidden = hidden.repeat_interleave(heads // self.kv_heads, dim=0)
            logits.masked_fill_(hidden[:, None], float("-inf"))
        future = torch.ones(count, count, dtype=torch.bool, device=logits.device).triu(1)
        logits[:, :, visible - count :].masked_fill_(future, float("-inf"))
        return logits.softmax(dim=-1)

    def _all_queries(self) -> Tensor:
        if self.queries.shape[1] != self.tokens - self.template_tokens:
            raise self._absent("all queries of the prompt")
        return self.queries

    def _absent(self, what: str) -> UserError:
        return UserError(
            f"{what} was not recorded",
            allowed="prompts prefilled for the methods that need it",
            do="name them when the prompt is prefilled: prefill(..., methods=[method])",
        )


def pool(scores: Tensor, kernel_size: int, pooling: str) -> Tensor:
    """Smooths scores along tokens, same length out: neighbours of a needed token are needed too.

    Args:
        scores: `[head, token]`.
        kernel_size: odd width; 1 changes nothing.
        pooling: `max` or `avg`.
    """
    pooler = functional.max_pool1d if pooling == "max" else functional.avg_pool1d
    return pooler(scores[None], kernel_size, stride=1, padding=kernel_size // 2)[0]


def reduce_groups(scores: Tensor, stored_heads: int, how: str) -> Tensor:
    """One row of scores for each stored head; query head h belongs to KV head `h // group`.

    Args:
        scores: `[query_head, token]`.
        stored_heads: query heads or KV heads.
        how: `mean`, `max` or `sum`.
    """
    return _joined(scores.view(stored_heads, -1, scores.shape[-1]), 1, how)


def _joined(values: Tensor, dim: int, how: str) -> Tensor:
    if how == "max":
        return values.amax(dim=dim)
    return values.mean(dim=dim) if how == "mean" else values.sum(dim=dim)
