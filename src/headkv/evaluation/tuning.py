"""Choosing a numeric parameter of a scorer or allocator on a validation part of a benchmark.

`tune=allocator.beta` chooses HeadKV's beta as its paper did (arXiv 2410.19258); `beta=choose` is
short for it. 15 % of the examples, told by a hash of their ids, are the validation part: a run that
chooses answers these and no others, and `beta=chosen` (with the same `tune=`, if that was another
parameter) all but these. So no example has a part both in the choice and in a table, whatever the
limit, the seed or the tasks of either run.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from headkv.errors import UserError
from headkv.evaluation.grid import BETA, Cell
from headkv.evaluation.settings import Settings
from headkv.storage.choices import add_choices, read_choices
from headkv.storage.keys import digest
from headkv.storage.lines import read_lines
from headkv.storage.schemas import CHOICES
from headkv.storage.validation import no_validation_example

BETAS = (1.005, 1.01, 1.1, 1.2, 1.5, 2.0, 5.0, 10.0)
KERNELS = (1, 3, 5, 7, 9, 13)  # of the pooling: odd widths only
FACTORS = (0.25, 0.5, 1, 2, 4)  # of the method's own value, for any other parameter
FILE = "chosen.json"
_WHAT = "the choices"


def wanted(settings: Settings) -> Literal["choose", "chosen"] | None:
    """What a run does about a tuned parameter: choose it, use what was chosen, or neither.

    Of a whole space it chooses too, but see `headkv.evaluation.trials`.
    """
    if settings.beta == "chosen":
        return "chosen"
    return "choose" if settings.beta == "choose" or settings.tune is not None else None


def parameter(settings: Settings) -> str:
    """The path of the parameter that is tuned, such as `allocator.beta`."""
    return settings.tune if isinstance(settings.tune, str) else BETA


def betas(kv_size: int) -> tuple[float, ...]:
    """The paper's eight values; of a cache of 64 or less, 1.005 would leave no floor."""
    return (1.02, *BETAS[1:]) if kv_size <= 64 else BETAS


def values(cell: Cell, path: str) -> tuple[float, ...]:
    """The values of a parameter that are tried under a cell; some may be out of its bounds.

    Args:
        cell: a cell that has the parameter.
        path: such as `allocator.beta`.
    """
    if path == BETA:
        return betas(cell.method.kv_size or 0)
    if path == "scorer.kernel_size":
        return KERNELS
    own = _value(cell.method.identity, path)
    tried = (type(own)(round(factor * own, 6)) for factor in FACTORS)
    return tuple(dict.fromkeys(tried))


def candidates(cells: Sequence[Cell], path: str = BETA) -> list[Cell]:
    """Every cell that has the parameter once for each value, under a name of its own.

    Args:
        cells: the cells of a run; those without the parameter have no part in the choice.
        path: such as `allocator.beta`.

    Raises:
        UserError: no cell has the parameter, or only one value can be used.
    """
    found = []
    for cell in (cell for cell in cells if cell.has_parameter(path)):
        for value in values(cell, path):
            with suppress(UserError):  # out of the parameter's bounds
                found.append(cell.with_parameter(path, value, _name(cell, path, value)))
    if not found:
        beta = ", such as headkv_r, headkv_r2" if path == BETA else ""
        raise UserError(
            f"tune={path} with method {', '.join(sorted({cell.name for cell in cells}))}",
            allowed=f"methods that have the numeric parameter {path}{beta}",
            do="set method=[headkv_r,headkv_r2]" if path == BETA else "change tune= or method=",
        )
    return found


def with_choices(cells: Sequence[Cell], path: str, file: Path, settings: Any) -> list[Cell]:
    """The cells, with the value of the parameter that was chosen for each that has it.

    Args:
        cells: of any methods.
        path: the parameter, such as `allocator.beta`.
        file: the choices.
        settings: a list of whatever else a choice depends on; as it was given to `save_choices`.

    Raises:
        UserError: nothing was chosen for one of them under these settings.
    """
    choices, leaf = _read(file), _leaf(path)
    changed = []
    for cell in cells:
        if cell.has_parameter(path):
            choice = choices.get(_key(cell, path, settings))
            if choice is None:
                first = "experiment=choose_beta" if path == BETA else f"tune={path}"
                raise UserError(
                    f"no {leaf} was chosen for {cell.name} at kv_size={cell.method.kv_size} with "
                    f"these settings ({file})",
                    allowed="a number, or chosen once it is",
                    do=f"first run with {first} method={cell.name} "
                    f"kv_size={cell.method.kv_size} and settings otherwise the same",
                )
            cell = cell.with_parameter(path, _number(choice, leaf, file))
        changed.append(cell)
    return changed


def _number(choice: Mapping[str, Any], leaf: str, file: Path) -> float:
    value = choice.get(leaf)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"the choices {file} have no number {leaf} for {choice['method']}",
            allowed="the file that a run which chooses wrote",
            do="move it away and choose again",
        )
    return value


def best(curve: Mapping[float, float]) -> float:
    """The value with the highest score; of equals the largest, whose budgets are the flattest."""
    return max(curve, key=lambda value: (curve[value], value))


def save_choices(
    file: Path,
    cells: Sequence[Cell],
    path: str,
    scores: Sequence[Mapping[str, Sequence[float]]],
    settings: Any,
    note: Mapping[str, Any],
) -> list[str]:
    """Adds a run's choices to the file, in place of earlier ones under the same settings.

    Args:
        file: the choices.
        cells: from `candidates`.
        path: the parameter, such as `allocator.beta`.
        scores: for each cell, its validation scores by task; tasks weigh the same.
        settings: a list of whatever else a choice depends on.
        note: written beside each choice.

    Returns:
        One line for each choice.

    Raises:
        UserError: there is no validation example.
    """
    if not scores or not any(scores[0].values()):
        raise no_validation_example()
    leaf = _leaf(path)
    curves: dict[str, dict[float, float]] = {}
    described: dict[str, dict[str, Any]] = {}
    for cell, by_task in zip(cells, scores, strict=True):
        key, value = _key(cell, path, settings), _value(cell.identity, path)
        means = [sum(each) / len(each) for each in by_task.values() if each]
        curves.setdefault(key, {})[value] = sum(means) / len(means)
        described[key] = {
            "method": cell.name.removesuffix(_name(cell, path, value, "")),
            **{name: cell.identity[name] for name in ("kv_size", "protocol", "granularity")},
            "examples": {task: len(each) for task, each in by_task.items() if each},
        }
    chosen = {
        key: {**described[key], leaf: best(curve), "curve": list(curve.items()), **note}
        for key, curve in curves.items()
    }
    add_choices(file, chosen, CHOICES, _WHAT)
    return [
        f"{choice['method']} at {choice['kv_size']}: {leaf} {choice[leaf]:g} of "
        + ", ".join(f"{value:g} ({score:.1f})" for value, score in choice["curve"])
        for choice in chosen.values()
    ]


def read_scores(files: Mapping[tuple[str, Path], set[str]]) -> dict[str, list[float]]:
    """Scores of finished rows by task.

    Args:
        files: (task, result file) -> run keys of the rows that count.
    """
    return {
        task: [row["score"] for row in finished(path, keys)] for (task, path), keys in files.items()
    }


def finished(path: Path, keys: Container[str]) -> Iterator[dict[str, Any]]:
    """The answers of a result file that count.

    Args:
        path: the result file.
        keys: run keys of the rows that count.
    """
    for line in read_lines(path):
        if line.row is not None and not line.failed and line.row.get("run_key") in keys:
            yield line.row


def _leaf(path: str) -> str:
    """The parameter's own name."""
    return path.rpartition(".")[2]


def _name(cell: Cell, path: str, value: float, name: str | None = None) -> str:
    """The name of a cell with another value, e.g. `headkv_r_beta1.2`."""
    return f"{cell.name if name is None else name}_{_leaf(path)}{value:g}"


def _value(identity: Mapping[str, Any], path: str) -> Any:
    """The value of a parameter in the identity of a method."""
    value: Any = identity
    for key in path.split("."):
        value = value[key]
    return value


def _key(cell: Cell, path: str, settings: Any) -> str:
    """What a choice holds for: the cell, its head scores included, apart from the parameter."""
    apart = _without(cell.identity, path.split("."))
    return digest([apart, path, [*settings, cell.compress_on]])


def _without(described: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A nested description without what stands at the end of the keys."""
    first, *rest = keys
    if not rest:
        return {key: value for key, value in described.items() if key != first}
    return {**described, first: _without(described[first], rest)}


def _read(path: Path) -> dict[str, Any]:
    return read_choices(path, CHOICES, _WHAT)
