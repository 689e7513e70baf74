"""Choosing HeadKV's beta on a validation part of a benchmark, as its paper did (arXiv 2410.19258).

15 % of the examples, told by a hash of their ids, are the validation part: `beta=choose` answers
these and no others, `beta=chosen` all but these. So no example has a part both in the choice and in
a table, whatever the limit, the seed or the tasks of either run.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headkv.benchmarks.validation import SHARE
from headkv.errors import UserError
from headkv.evaluation.grid import Cell
from headkv.methods.headkv import HeadKV
from headkv.storage.atomic import write_json
from headkv.storage.keys import digest

BETAS = (1.005, 1.01, 1.1, 1.2, 1.5, 2.0, 5.0, 10.0)
FILE = "chosen.json"


def betas(kv_size: int) -> tuple[float, ...]:
    """The paper's eight values; of a cache of 64 or less, 1.005 would leave no floor."""
    return (1.02, *BETAS[1:]) if kv_size <= 64 else BETAS


def candidates(cells: Sequence[Cell]) -> list[Cell]:
    """Every HeadKV cell once for each beta, under a name of its own; other cells have no part.

    Raises:
        UserError: there is none.
    """
    found = [
        _with_beta(cell, cell.method, beta, f"{cell.name}_beta{beta:g}")
        for cell in cells
        if isinstance(cell.method, HeadKV)
        for beta in betas(cell.method.kv_size or 0)
    ]
    if not found:
        raise UserError(
            f"beta=choose with method {', '.join(sorted({cell.name for cell in cells}))}",
            allowed="methods that have a beta, such as headkv_r, headkv_r2",
            do="set method=[headkv_r,headkv_r2]",
        )
    return found


def with_choices(cells: Sequence[Cell], path: Path, settings: Any) -> list[Cell]:
    """The cells, HeadKV's with the beta that was chosen for them.

    Args:
        cells: of any methods.
        path: of the choices.
        settings: whatever else a choice depends on; as it was given to `save_choices`.

    Raises:
        UserError: nothing was chosen for one of them under these settings.
    """
    choices = _read(path)
    changed = []
    for cell in cells:
        if isinstance(cell.method, HeadKV):
            choice = choices.get(_key(cell, settings))
            if choice is None:
                raise UserError(
                    f"no beta was chosen for {cell.name} at kv_size={cell.method.kv_size} with "
                    f"these settings ({path})",
                    allowed="a number, or chosen once it is",
                    do=f"first run with experiment=choose_beta method={cell.name} "
                    f"kv_size={cell.method.kv_size} and settings otherwise the same",
                )
            cell = _with_beta(cell, cell.method, float(choice["beta"]), cell.name)
        changed.append(cell)
    return changed


def best(curve: Mapping[float, float]) -> float:
    """The beta with the highest score; of equals the largest, whose budgets are the flattest."""
    return max(curve, key=lambda beta: (curve[beta], beta))


def save_choices(
    path: Path,
    cells: Sequence[Cell],
    scores: Sequence[Mapping[str, Sequence[float]]],
    settings: Any,
    note: Mapping[str, Any],
) -> list[str]:
    """Adds a run's choices to the file, in place of earlier ones under the same settings.

    Args:
        path: of the choices.
        cells: from `candidates`.
        scores: for each cell, its validation scores by task; tasks weigh the same.
        settings: whatever else a choice depends on.
        note: written beside each choice.

    Returns:
        One line for each choice.

    Raises:
        UserError: there is no validation example.
    """
    if not scores or not any(scores[0].values()):
        raise UserError(
            f"no example of this run is in the validation part ({SHARE:.0%} of all, by id)",
            allowed="one or more",
            do="ask more examples: leave task= and limit= out, or raise benchmark.per_cell=",
        )
    curves: dict[str, dict[float, float]] = {}
    described: dict[str, dict[str, Any]] = {}
    for cell, by_task in zip(cells, scores, strict=True):
        key = _key(cell, settings)
        means = [sum(each) / len(each) for each in by_task.values() if each]
        curves.setdefault(key, {})[cell.identity["beta"]] = sum(means) / len(means)
        described[key] = {
            "method": cell.name.rpartition("_beta")[0],
            **{name: cell.identity[name] for name in ("kv_size", "protocol", "granularity")},
            "examples": {task: len(each) for task, each in by_task.items() if each},
        }
    chosen = {
        key: {**described[key], "beta": best(curve), "curve": list(curve.items()), **note}
        for key, curve in curves.items()
    }
    write_json(path, _read(path) | chosen)
    return [
        f"{choice['method']} at {choice['kv_size']}: beta {choice['beta']:g} of "
        + ", ".join(f"{beta:g} ({score:.1f})" for beta, score in choice["curve"])
        for choice in chosen.values()
    ]


def read_scores(files: Mapping[tuple[str, Path], set[str]]) -> dict[str, list[float]]:
    """Scores of finished rows by task.

    Args:
        files: (task, result file) -> run keys of the rows that count.
    """
    return {
        task: [row["score"] for row in _rows(path) if row["run_key"] in keys and "error" not in row]
        for (task, path), keys in files.items()
    }


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in path.read_bytes().splitlines() if line)


def _with_beta(cell: Cell, method: HeadKV, beta: float, name: str) -> Cell:
    return Cell(name, method.with_beta(beta), cell.identity | {"beta": beta})


def _key(cell: Cell, settings: Any) -> str:
    """What a choice holds for: the cell, its head scores included, apart from its beta."""
    return digest([{k: v for k, v in cell.identity.items() if k != "beta"}, settings])


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot read the chosen betas {path}: {problem}",
            allowed="the file that experiment=choose_beta writes",
            do="move it away and run experiment=choose_beta again",
        ) from problem
