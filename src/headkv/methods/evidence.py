"""How much each cached token matters, judged by the observation window (SnapKV, arXiv 2404.14469).

Works on one prompt and one layer; knows nothing of budgets, methods or models.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(eq=False)
class Observation:
    """What a method sees of one layer of one prompt.

    Attributes:
        queries: the observation window's queries after RoPE, `[query_head, window, head_dim]`;
            its last query is that of the last token of the user's text.
        keys: all keys after RoPE, `[kv_head, token, head_dim]`.
        layer: index of the layer.
        num_layers: layers of the model; None where the caller does not know.
        template_tokens: tokens after the window (the chat template's tail), always kept.
        scaling: factor of the attention logits; None means `head_dim ** -0.5`.
        softcap: the model's soft cap of attention logits, if it has one.
    """

    queries: Tensor
    keys: Tensor
    layer: int
    num_layers: int | None = None
    template_tokens: int = 0
    scaling: float | None = None
    softcap: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.keys.shape[1]

    @property
    def window(self) -> int:
        """Queries in the observation window."""
        return self.queries.shape[1]

    @property
    def kept_tail(self) -> int:
        """Tokens at the end that every method keeps: the window and the template's tail."""
        return self.window + self.template_tokens

    @property
    def candidates(self) -> int:
        """Tokens that compete for the rest of the budget."""
        return self.tokens - self.kept_tail

    @cached_property
    def attention(self) -> Tensor:
        """Mean attention that the window's queries pay to each candidate.

        Softmax runs over all tokens a query can see, in float32; the window's own columns are
        dropped afterwards (SnapKV, steps 1-3 of its code). Keys are not repeated for grouped
        queries. Worked out once, whatever the number of methods that read it.

        Returns:
            float32 `[query_head, candidate]`.
        """
        heads, window, head_dim = self.queries.shape
        visible = self.tokens - self.template_tokens
        scaling = head_dim**-0.5 if self.scaling is None else self.scaling
        rows = self.queries.reshape(self.keys.shape[0], -1, head_dim).float() * scaling
        logits = torch.bmm(rows, self.keys[:, :visible].float().transpose(1, 2))
        logits = logits.view(heads, window, visible)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        future = torch.ones(window, window, dtype=torch.bool, device=logits.device).triu(1)
        logits[:, :, visible - window :].masked_fill_(future, float("-inf"))
        return logits.softmax(dim=-1)[:, :, : visible - window].mean(dim=1)


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
    grouped = scores.view(stored_heads, -1, scores.shape[-1])
    if how == "max":
        return grouped.amax(dim=1)
    return grouped.mean(dim=1) if how == "mean" else grouped.sum(dim=1)
