"""From attention rows to one number a head and test, for all layers in one reduction.

Retrieval: arXiv 2404.15574. Retrieval-reasoning: arXiv 2410.19258, section 3.1.
"""

from collections.abc import Callable

from torch import Tensor

Rule = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]


def retrieval(rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]) -> Tensor:
    """A step counts 1/N if the head's strongest key is in the span and is the token generated.

    Args:
        rows: attention of each step, `[layer, query_head, step, prompt token]`.
        generated: token ids, `[step]`.
        prompt: token ids, `[prompt token]`.
        span: first and past-the-end token of the answer-bearing span; N is its length.

    Returns:
        `[layer, query_head]`.
    """
    start, end = span
    strongest = rows.argmax(-1)
    hit = (strongest >= start) & (strongest < end) & (prompt[strongest] == generated)
    return hit.double().sum(-1) / (end - start)


def retrieval_reasoning(
    rows: Tensor, generated: Tensor, prompt: Tensor, span: tuple[int, int]
) -> Tensor:
    """A step counts attention/N for each of the head's N strongest keys that is in the span.

    Arguments and result as `retrieval`; which token was generated does not matter.
    """
    start, end = span
    strongest = rows.topk(end - start, dim=-1)
    inside = (strongest.indices >= start) & (strongest.indices < end)
    return (strongest.values * inside).double().sum((-1, -2)) / (end - start)


RULES: dict[str, Rule] = {"retrieval": retrieval, "retrieval_reasoning": retrieval_reasoning}
