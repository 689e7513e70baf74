"""A declared space of settings, and the draw of a method's trials from it; knows no methods.

A space is nested as a method's yaml is, `{scorer: {kernel_size: [7, 21]}}`,
and by path once it is read: `scorer.kernel_size` -> values.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

from headkv.errors import UserError

Value = bool | int | float | str
Space = Mapping[str, tuple[Value, ...]]
"""Path of a parameter -> the values to try."""
PATH = r"(scorer|allocator)(\.base)*\.\w+"
"""The path of a parameter that can be chosen."""


def read_space(given: object) -> object:
    """A space by path; what is no mapping is handed on.

    Args:
        given: nested, by path, or both; None for a parameter takes it out of the space.

    Raises:
        UserError: a path that no parameter can have, or something that is no value.
    """
    if not isinstance(given, Mapping):
        return given
    space = dict(_flat(given))
    for path, values in space.items():
        plain = all(isinstance(each, Value) for each in values)
        if not (plain and values and re.fullmatch(PATH, path)):
            raise UserError(
                f"tune: {path}: {str(list(values))[:60]}",
                allowed="values of scorer.PARAMETER, scorer.base.PARAMETER, allocator.PARAMETER",
                do="write it as conf/experiment/choose_settings.yaml does",
            )
    if not space:
        raise UserError(
            "tune={}: nothing to choose", allowed="parameters and their values", do="add some"
        )
    return space


def _flat(
    given: Mapping[object, object], before: str = ""
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for key, content in given.items():
        if isinstance(content, Mapping):
            yield from _flat(content, f"{before}{key}.")
        elif content is not None:
            values = content if isinstance(content, list | tuple) else [content]
            yield f"{before}{key}", tuple(v for i, v in enumerate(values) if v not in values[:i])


def none_takes(space: Iterable[str], methods: Iterable[str]) -> UserError:
    """The refusal of a space of which no method of a run has a parameter."""
    return UserError(
        f"tune= with method {', '.join(sorted(methods))}",
        allowed=f"methods that have one of {', '.join(space)}",
        do="change tune= or method=",
    )


def part_of(space: Space, group: str) -> list[dict[str, Value]]:
    """Every combination of the space's parameters of a scorer, or of an allocator, in order.

    Args:
        space: those that a method has.
        group: `scorer` or `allocator`.
    """
    own = {path: values for path, values in space.items() if path.startswith(f"{group}.")}
    return [dict(zip(own, values, strict=True)) for values in product(*own.values())]


def drawn(
    scorers: Sequence[Mapping[str, Value]], allocators: Sequence[Mapping[str, Value]], seed: int
) -> Iterator[dict[str, Value]]:
    """The product of scorer and allocator settings in a random order, none of them twice.

    Both lists are shuffled, then each pass over the scorers takes the allocators one further on. So
    methods that have the same scorer try the same scorer settings, whatever their allocators: a
    lucky draw is everybody's, and a prefill scores once for all of them.

    Args:
        scorers: of `part_of`.
        allocators: likewise.
        seed: of the order.
    """
    scorers, allocators = _shuffled(scorers, seed), _shuffled(allocators, seed)
    for turn in range(len(allocators)):
        for place, scorer in enumerate(scorers):
            yield {**scorer, **allocators[(place + turn) % len(allocators)]}


def _shuffled(settings: Sequence[Mapping[str, Value]], seed: int) -> Sequence[Mapping[str, Value]]:
    order = list(settings)
    Random(seed).shuffle(order)
    return order
