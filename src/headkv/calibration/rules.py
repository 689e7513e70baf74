"""From attention rows to one number a head and test, for all layers in one reduction.

Retrieval: arXiv 2404.15574. Retrieval-reasoning: arXiv 2410.19258, section 3.1. Semantic
retrieval: arXiv 2508.02401. All are sums over decode steps, so steps may come in any portions.
"""

from __future__ import annotations  # settings are checked by the rules' names, without torch

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Rule = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]

_GROUPS = 64  # more than the tokens of most spans


def retrieval(rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]) -> Tensor:
    """A step counts 1/N if the head's strongest key is in the span and is the token generated.

    Args:
        rows: attention of each step, `[layer, query_head, step, key]`. Keys are the prompt's
            tokens, all or the first of them, or the prompt's and those generated since.
        generated: token ids, `[step]`.
        prompt: token ids, `[prompt token]`.
        span: first and past-the-end token of the answer-bearing span; N is its length.

    Returns:
        float64 `[layer, query_head]`.
    """
    start, end = span
    # Not argmax, which is ten times slower than amax on a CPU.
    strongest = rows[..., start:end] == rows.amax(-1, keepdim=True)
    copied = prompt[start:end] == generated[:, None]
    return (strongest & copied).any(-1).double().sum(-1) / (end - start)


def retrieval_reasoning(
    rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]
) -> Tensor:
    """A step counts attention/N for each of the head's N strongest keys that is in the span.

    Arguments and result as `retrieval`; which token was generated does not matter.
    """
    start, end = span
    best = rows[..., start:end].amax(-1, keepdim=True)
    # Where N groups of keys each have one that beats the whole span, none of it is among the N
    # strongest: most heads are out for a tenth of what topk takes on a CPU.
    groups = min(_GROUPS, rows.shape[-1])
    whole = rows[..., : rows.shape[-1] // groups * groups]
    left = (whole.unflatten(-1, (-1, groups)).amax(-2) > best).sum(-1) < end - start
    strongest = rows[left].topk(end - start)
    inside = (strongest.indices >= start) & (strongest.indices < end)
    scores = rows.new_zeros(rows.shape[:-1]).double()
    scores[left] = (strongest.values * inside).double().sum(-1)
    return scores.sum(-1) / (end - start)


def semantic(rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]) -> Tensor:
    """A step counts the attention to the whole span, once for each span token it generated.

    Arguments and result as `retrieval`. A head that looks at the words around the copied one
    scores as well as one that looks at the word itself.
    """
    start, end = span
    copies = (prompt[start:end] == generated[:, None]).sum(-1)
    return (rows[..., start:end].double().sum(-1) * copies).sum(-1)


def span_attention(
    rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]
) -> Tensor:
    """A step counts attention/N of all keys in the span: `retrieval_reasoning` without its top N.

    Arguments and result as `retrieval`. An ablation; no paper's rule.
    """
    start, end = span
    return rows[..., start:end].double().sum((-1, -2)) / (end - start)


RULES: dict[str, Rule] = {
    "retrieval": retrieval,
    "retrieval_reasoning": retrieval_reasoning,
    "semantic": semantic,
    "span_attention": span_attention,
}
