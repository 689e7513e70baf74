"""What scorers and allocators may look at: one layer of one prompt, worked out lazily, once.

Everything here is shared by all cells of a prefill. Knows nothing of budgets, methods or models;
what needs the model (its output projection, its rotation of positions) comes in as a function.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from headkv.errors import UserError
from headkv.methods.query_statistics import QueryStatistics
from headkv.methods.sums import (
    accumulated_attention,
    causal_weights,
    joined,
    noncausal_attention,
    pool,
    projected_norms,
    reduce_groups,
)

__all__ = ["EVERY_QUERY", "NEEDS", "Evidence", "QueryStatistics", "pool", "reduce_groups"]

SECOND_PASS = frozenset({"repetition", "task_prompts", "weighted_repetition"})
"""What a second pass over the finished cache can note, see `headkv.generation.second_pass`."""
EVERY_QUERY = frozenset({"query_statistics", "accumulated_attention", "noncausal_attention"})
"""What is worked out from the queries of all tokens, which are freed afterwards."""
NEEDS = EVERY_QUERY | SECOND_PASS | {"values", "output_projection", "span_ends"}
"""What a scorer may declare that it reads, beside the observation window's queries and the keys."""
Made = TypeVar("Made")


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
        mean_rotation: takes positions and the head dimension to the matrix `[head_dim, head_dim]`
            that a row vector before RoPE is multiplied with to be rotated to them on average.
        project: gives the layer's output projection by query head.
        second: what a second pass over the finished cache noted, `[query_head, token]` by what it
            is, of `SECOND_PASS`.
        probe: queries `[query_head, probe, head_dim]` and keys `[kv_head, probe, head_dim]` of a
            text behind the prompt that takes the window's place and is dropped afterwards.
        absent: rows of shorter heads that are no entries, bool `[kv_head, token]`; None: none are.
        ends: whether a sentence, a line or the like ends with a token, bool `[token]`.
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
    mean_rotation: Callable[[Tensor, int], Tensor] | None = None
    project: Callable[[], Tensor] | None = None
    second: Mapping[str, Tensor] = field(default_factory=dict)
    probe: tuple[Tensor, Tensor] | None = None
    absent: Tensor | None = None
    ends: Tensor | None = None
    _shared: dict[Hashable, object] = field(default_factory=dict, repr=False)

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

    @property
    def visible(self) -> int:
        """Tokens of the user's text and what stands before it: all but the template's tail."""
        return self.tokens - self.template_tokens

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
        group = len(scores) // self.kv_heads
        absent = self.absent[:, : scores.shape[1]].repeat_interleave(group, dim=0)
        return scores.masked_fill(absent, float(scores.amin()) - 1)

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What several cells need alike, made under `key` for the first; not to be written to."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[return-value]

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

        def attend() -> Tensor:
            weights = self.weights(window_size)[:, :, : self.candidates(window_size)]
            if aggregation != "undiluted":
                return joined(weights, 1, aggregation)
            count = weights.shape[1]
            last = self.visible + (count if self.probe else 0)
            seen = torch.arange(last - count + 1, last + 1, device=weights.device)
            return joined(weights * seen[:, None], 1, "mean")

        return self.shared(("attention", window_size, aggregation), attend)

    def weights(self, window_size: int) -> Tensor:
        """Attention of each of the window's queries, or the probe's, worked out at every call.

        Returns:
            float32 `[query_head, window or probe, token]`, without the template's tokens.
        """
        if self.probe is None:
            queries, keys = self.window(window_size), self.keys[:, : self.visible]
        else:
            queries, keys = self.probe[0], torch.cat([self.keys, self.probe[1]], 1)
        more = (0, keys.shape[1] - self.tokens)  # below 0: cut off
        absent = None if self.absent is None else functional.pad(self.absent, more)
        weights = causal_weights(queries, keys, self.logit_scaling, self.softcap, absent)
        return weights if self.probe is None else weights[:, :, : self.tokens]

    def pooled(self, window_size: int, aggregation: str, kernel_size: int, pooling: str) -> Tensor:
        """`attention`, smoothed along tokens by `pool`; shared likewise."""
        return self.shared(
            ("pooled", window_size, aggregation, kernel_size, pooling),
            lambda: pool(self.attention(window_size, aggregation), kernel_size, pooling),
        )

    @property
    def given_values(self) -> Tensor:
        """All values, where the caller has them."""
        if self.values is None:
            raise self._absent("the value of every token")
        return self.values

    def projected_norms(self, order: int) -> Tensor:
        """How much each value adds to the layer's output through each query head at most.

        Args:
            order: 1 or 2, of the norm of the projected value.

        Returns:
            float32 `[query_head, token]`.
        """

        return self.shared(
            ("projected norms", order),
            lambda: projected_norms(self.given_values, self.output_projection, order),
        )

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
    def plain_keys(self) -> Tensor:
        """All keys before RoPE, float32 `[kv_head, token, head_dim]`."""
        return self._unrotated(self.keys)

    def _unrotated(self, states: Tensor) -> Tensor:
        if self.unrotate is None:
            raise self._absent("the rotation of the model's queries and keys")
        positions = torch.arange(states.shape[1], device=states.device)
        return self.unrotate(states, positions).float()

    def query_mean(self, skip: int = 0) -> Tensor:
        """Mean of the queries of the user's text before RoPE, float32 `[query_head, head_dim]`.

        Args:
            skip: first tokens that are left out, if there are others: they are seldom like the
                rest.
        """
        return self.shared(("query mean", skip), lambda: self._plain_queries(skip).mean(dim=1))

    def query_statistics(self, skip: int = 0) -> QueryStatistics:
        """Mean and covariance of the queries of `query_mean`."""
        return self.shared(
            ("query statistics", skip), lambda: QueryStatistics.of(self._plain_queries(skip))
        )

    def _plain_queries(self, skip: int) -> Tensor:
        queries = self._unrotated(self._all_queries())
        return queries[:, skip if skip < queries.shape[1] else 0 :]

    @property
    def next_position(self) -> int:
        """Position of the token behind the prompt."""
        return self.tokens

    def rotation_to_come(self, future: int) -> Tensor:
        """Rotates row vectors before RoPE to the `future` positions behind the prompt, on average.

        Returns:
            float32 `[head_dim, head_dim]`, to be multiplied with from the right.
        """
        if self.mean_rotation is None:
            raise self._absent("the rotation of the model's queries and keys")
        first = self.next_position
        positions = torch.arange(first, first + future, device=self.keys.device)
        return self.mean_rotation(positions, self.keys.shape[2])

    def noncausal_attention(self, chunk: int = 256, first: int = 0, last: int = 0) -> Tensor:
        """Attention within chunks of the user's text, without mask or scaling, summed over queries.

        What Compactor (arXiv 2507.08143) takes for what a token is worth to its neighbours.

        Args:
            chunk: tokens that see each other; the last chunk may be shorter.
            first: tokens before the first chunk, left out.
            last: tokens behind the last chunk, left out.

        Returns:
            float32 `[query_head, token]`, for the tokens from `first` on, `last` left out.
        """

        here = slice(first, max(self.visible - last, first))

        def attend() -> Tensor:
            return noncausal_attention(self._all_queries()[:, here], self.keys[:, here], chunk)

        return self.shared(("noncausal attention", chunk, first, last), attend)

    @cached_property
    def accumulated_attention(self) -> Tensor:
        """Attention that all queries of the user's text pay to each token, summed (H2O).

        Worked out for some queries at a time: no matrix of all queries and all tokens is formed.

        Returns:
            float32 `[query_head, token]`; the template's tokens have none.
        """
        queries, keys = self._all_queries(), self.keys[:, : self.visible]
        total = accumulated_attention(queries, keys, self.logit_scaling, self.softcap)
        return functional.pad(total, (0, self.template_tokens))

    @property
    def span_ends(self) -> Tensor:
        """Whether a sentence, a line or the like ends with a token, bool `[token]`."""
        if self.ends is None:
            raise UserError(
                "where the prompt's sentences end is not known",
                allowed="prompts whose span ends are handed over, bool [batch, token]",
                do="pass ends=headkv.span_ends(tokenizer, input_ids) to the cache or to prefill",
            )
        return self.ends

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

    @property
    def logit_scaling(self) -> float:
        """Factor of the attention logits."""
        return self.queries.shape[2] ** -0.5 if self.scaling is None else self.scaling

    def _all_queries(self) -> Tensor:
        if self.queries.shape[1] != self.visible:
            raise self._absent("the query of every token")
        return self.queries

    def _absent(self, what: str) -> UserError:
        return UserError(
            f"{what} was not recorded",
            allowed="prompts prefilled for the methods that need it",
            do="name them when the prompt is prefilled: prefill(..., methods=[method])",
        )
