"""Examples that begin alike: a document and the questions about it, which share a prefill."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headkv.evaluation.plan import Missing

LEAST_CHARS = 512
"""A common beginning that is shorter is not worth a prefill of its own."""
LEAST_TOKENS = 64
_MOST_CHARS = 2**25  # of the prompts of a group, which are in memory together


def by_document(work: Iterable[Missing]) -> Iterator[list[Missing]]:
    """Groups examples that follow each other and have at least half of their prompts in common.

    Args:
        work: examples as they come; one more than a group is looked at.

    Yields:
        Groups; an example that shares nothing is one of its own.
    """
    group: list[Missing] = []
    chars = shared = 0
    for missing in work:
        prompt = missing[0].prompt
        if group:
            length = max(len(prompt), len(group[0][0].prompt))
            both = common(prompt, group[0][0].prompt, shared)
            alike = both >= max(LEAST_CHARS, length // 2)
            if not alike or chars + len(prompt) > _MOST_CHARS:
                yield group
                group = []
            else:
                shared = both
        if not group:
            chars, shared = 0, len(prompt)
        group.append(missing)
        chars += len(prompt)
    if group:
        yield group


def common(first: Any, second: Any, most: int | None = None) -> int:
    """Returns the length of the longest beginning that two texts or lists have in common.

    Args:
        first: the one.
        second: the other.
        most: where to stop looking.
    """
    low, high = 0, min(len(first), len(second))
    if most is not None:
        high = min(high, most)
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_tokens(contexts: Sequence[list[int]]) -> int:
    """Returns how many tokens all contexts begin with alike; 0 if that is not worth a prefill."""
    shared = len(contexts[0])
    for context in contexts[1:]:
        shared = common(contexts[0], context, shared)
    return shared if shared >= max(LEAST_TOKENS, max(map(len, contexts)) // 2) else 0
