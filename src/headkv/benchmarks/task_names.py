"""The `task=` key: from names and sets of names to tasks."""

from collections.abc import Mapping, Sequence

from headkv.errors import UserError, choose


def expand(
    given: str | int | Sequence[str | int] | None,
    tasks: Sequence[str],
    sets: Mapping[str, Sequence[str]],
) -> list[str]:
    """Returns the tasks that are meant, each once.

    Args:
        given: one name, several, or None for `all`; a length may be a number.
        tasks: every task of the benchmark.
        sets: names for several tasks; `all` is every task unless it is among them.

    Raises:
        UserError: no name, or one that is neither a task nor a set.
    """
    named = {"all": tasks, **sets}
    names = listed(given)
    known = [*tasks, *named]
    if not names:
        raise UserError("task is empty", allowed=", ".join(known), do="set task=")
    several = [named.get(name, (name,)) for name in names if choose("task", name, known)]
    return list(dict.fromkeys(task for tasks in several for task in tasks))


def listed(given: str | int | Sequence[str | int] | None) -> list[str]:
    """Returns the names of a `task=` key as they were given."""
    if given is None:
        return ["all"]
    return [str(name) for name in ([given] if isinstance(given, str | int) else given)]
