"""The part of a benchmark that parameters are chosen on, and that no table then takes."""

from headkv.errors import UserError
from headkv.storage.keys import digest

SHARE = 0.15
"""Share of the examples that belongs to the validation part."""
SPLIT = "headkv validation split 1"
"""Seed of the split: another text is another split."""


def in_validation(task: str, id: str) -> bool:
    """Returns whether an example belongs to the validation part, the same on every machine.

    Args:
        task: the example's task.
        id: the example's id.
    """
    return int(digest([SPLIT, task, id], 8), 16) < SHARE * 16**8


def no_validation_example() -> UserError:
    """The refusal of a choice that would rest on nothing."""
    return UserError(
        f"no example of this run is in the validation part ({SHARE:.0%} of all, by id)",
        allowed="one or more",
        do="ask more examples: leave task= and limit= out, or raise benchmark.per_cell=",
    )
