"""Every method at its best: settings from a declared space, chosen on the validation part.

Each method tries the same number of settings of its own product of the space, its published ones
first, and all of them are cells of one prefill. What is best is the same for every method: the mean
score of the validation examples, tasks weighing the same, because that is what the tables compare;
of equal scores, which hits and misses of a few dozen examples often are, the smaller divergence
from the full cache (`kl`), because it still tells such settings apart; of equals in both the one
tried first, so that published settings stay unless something is better. Divergence alone would
choose what repeats the full cache's mistakes.

No example of the validation part (15 % of all, told by a hash of their ids) is in a row of a run
with `settings=`, published settings included, and no other example has a part in the choice.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from headkv.errors import UserError
from headkv.evaluation.grid import Cell
from headkv.evaluation.space import Space, Value, drawn, none_takes, part_of


@dataclass(frozen=True)
class Tried:
    """One method at one KV size, and the settings of it that are tried.

    Attributes:
        published: the method as its yaml has it.
        cells: a cell for each trial, the published settings first.
    """

    published: Cell
    cells: Sequence[Cell]


def trials(cells: Sequence[Cell], space: Space, count: int, seed: int) -> list[Tried]:
    """Each method under its own settings and under others of the space, each a cell of its own.

    Args:
        cells: the cells of a run; those without any of the space's parameters have no part in it.
        space: what may be tried.
        count: settings of each cell, its own included; fewer only if its product has no more.
        seed: of the draw.

    Raises:
        UserError: no cell has a parameter of the space, or none can take one of its values.
    """
    found: list[Tried] = []
    idle = {(path, value) for path, values in space.items() for value in values}
    known: set[str] = set()
    for cell in cells:
        published = own_settings(cell, space)
        known |= set(published)
        usable = {
            path: tuple(value for value in space[path] if _changed(cell, {path: value}))
            for path in published
        }
        idle -= {(path, value) for path, values in usable.items() for value in values}
        if published:
            some = {path: values for path, values in usable.items() if values}
            draw = drawn(part_of(some, "scorer"), part_of(some, "allocator"), seed)
            others = (own for each in draw if (own := published | each) != published)
            possible = (_changed(cell, each) for each in others)
            tried = islice((each for each in possible if each is not None), count - 1)
            found.append(Tried(cell, [_named(cell, published), *tried]))
    if not found:
        raise none_takes(space, {cell.name for cell in cells})
    for path, value in sorted(idle, key=str):
        if path in known:
            raise UserError(
                f"tune: {path}={value}, which no method of this run can take",
                allowed="values within the parameter's bounds and the KV size",
                do="take it out of tune=, or change method= or kv_size=",
            )
    return found


def own_settings(cell: Cell, paths: Iterable[str]) -> dict[str, Value]:
    """What a cell has of some parameters, by path; nothing of the full cache.

    Args:
        cell: of any method.
        paths: of parameters, such as `scorer.base.kernel_size`.
    """
    found: dict[str, Value] = {}
    for path in paths if cell.method.kv_size is not None else ():
        with suppress(UserError):
            found[path] = cell.method.setting(path)
    return found


def with_parameters(cell: Cell, parameters: Mapping[str, Value]) -> Cell:
    """The cell with other values of several parameters, which it then says of itself.

    Args:
        cell: of any method.
        parameters: by path.

    Raises:
        UserError: it lacks one of them, or a value is out of bounds.
    """
    changed = cell
    for path, value in parameters.items():
        changed = changed.with_parameter(path, value)
    return replace(changed, parameters=own_settings(changed, parameters))


def _changed(cell: Cell, parameters: Mapping[str, Value]) -> Cell | None:
    """The trial of these settings; None if they are out of bounds."""
    try:
        changed = with_parameters(cell, parameters)
    except UserError:
        return None
    return _named(changed, changed.parameters)


def _named(cell: Cell, parameters: Mapping[str, Value]) -> Cell:
    """A trial by its settings, so that other draws find its rows: `snapkv_kernel_size21_...`."""
    words = [f"{path.partition('.')[2]}{value}" for path, value in parameters.items()]
    name = "_".join([cell.name, *words])
    return replace(cell, name=name, settings="trial", parameters=dict(parameters))
