"""From trials to choices and back: what is best, where it is written, and the cells that use it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headkv.errors import UserError
from headkv.evaluation.grid import Cell
from headkv.evaluation.settings import Settings
from headkv.evaluation.trials import Tried, own_settings, with_parameters
from headkv.evaluation.tuning import finished
from headkv.storage.keys import digest
from headkv.storage.tuned import ALL, add_tuned, read_tuned, tuned_file, tuned_files
from headkv.storage.validation import no_validation_example

MEASURE = "score, then kl"
VARIANTS = ("published", "tuned", "tuned_on_all")
_ALIKE = ("space", "trials", "trials_seed", "measure")
"""What choices must have in common to stand beside one another."""
_DIGITS = 6  # of a mean: the order of its rows must not break a tie

Measured = Mapping[str, Sequence[tuple[float, float | None]]]
"""Task -> score and divergence of each validation example."""


def measured(files: Mapping[tuple[str, Path], set[str]]) -> Measured:
    """What a cell's finished rows measured.

    Args:
        files: (task, result file) -> run keys of the rows that count.
    """
    found = {
        task: [
            (row["score"], (row.get("fidelity") or {}).get("kl")) for row in finished(path, keys)
        ]
        for (task, path), keys in files.items()
    }
    return {task: rows for task, rows in found.items() if rows}


def best(tried: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The settings with the highest score; of equals the smallest divergence, then the first."""
    return max(tried, key=lambda each: (each["score"], -(each["kl"] or 0.0)))


def save_tuned(
    settings: Settings,
    benchmark: str,
    model: str,
    weights: str,
    tried: Sequence[Tried],
    found: Sequence[Sequence[Measured]],
    note: Mapping[str, Any],
) -> list[str]:
    """Writes down a run's choices, and those for all benchmarks of the results folder together.

    Args:
        settings: of the run; its `output_dir` is the results folder.
        benchmark: its name.
        model: the model's name.
        weights: hash of the model's weights.
        tried: of `trials`.
        found: what each trial of each of them measured.
        note: written beside each choice.

    Returns:
        One line for each choice.

    Raises:
        UserError: there is no validation example.
    """
    if not found or not any(found[0][0].values()):
        raise no_validation_example()
    assert isinstance(settings.tune, Mapping)
    asked = {
        "measure": MEASURE,
        "space": {path: list(values) for path, values in settings.tune.items()},
        "trials": settings.trials,
        "trials_seed": settings.trials_seed,
    }
    entries = {}
    for each, measures in zip(tried, found, strict=True):
        cell = each.published
        family = benchmark + (" (question not seen)" if cell.compress_on == "context" else "")
        results = [
            {"parameters": dict(trial.parameters), **_means(by_task)}
            for trial, by_task in zip(each.cells, measures, strict=True)
        ]
        entries[_key(cell, weights)] = {
            "cell": _same(cell, weights),
            "method": cell.name,
            **{name: cell.identity[name] for name in ("kv_size", "protocol", "granularity")},
            "families": [family],
            "examples": {task: len(rows) for task, rows in measures[0].items()},
            **asked,
            "chosen": best(results)["parameters"],
            "tried": results,
            **note,
        }
    output_dir = settings.output_dir
    add_tuned(tuned_file(output_dir, benchmark, model), entries)
    together = joined(output_dir, model, asked)
    if together:
        add_tuned(tuned_file(output_dir, ALL, model), together)
    return [_told(entry) for entry in [*entries.values(), *together.values()]]


def joined(output_dir: Path, model: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Choices for all benchmarks together: each weighs the same, as does the question unseen.

    Args:
        output_dir: the results folder.
        model: the model's name.
        asked: what they must have in common, of `_ALIKE`.

    Returns:
        Choices of the cells that were tried on two or more; samples are none.
    """
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for path in tuned_files(output_dir):
        benchmark = path.parts[-3]
        if path.parts[-2] == model and benchmark != ALL and not benchmark.endswith("_sample"):
            for entry in read_tuned(path).values():
                if all(entry[key] == asked[key] for key in _ALIKE):
                    by_cell.setdefault(entry["cell"], []).append(entry)
    return {cell: _joined(entries) for cell, entries in by_cell.items() if len(entries) > 1}


def _joined(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    results = []
    for trial in entries[0]["tried"]:
        same = [
            other
            for entry in entries
            for other in entry["tried"]
            if other["parameters"] == trial["parameters"]
        ]
        if len(same) == len(entries):
            means = _mean([each["score"] for each in same], [each["kl"] for each in same])
            results.append({"parameters": trial["parameters"], **means})
    examples = {
        f"{entry['families'][0]}: {task}": count
        for entry in entries
        for task, count in entry["examples"].items()
    }
    return {
        **entries[0],
        "families": [entry["families"][0] for entry in entries],
        "examples": examples,
        "chosen": best(results)["parameters"],
        "tried": results,
    }


def with_settings(
    cells: Sequence[Cell], settings: Settings, benchmark: str, model: str, weights: str
) -> list[Cell]:
    """The cells as published, and with the settings that were chosen for them, as is asked.

    Args:
        cells: of any methods; those that have nothing to choose, such as the full cache, stay one.
        settings: of the run: which variants, and where the choices lie.
        benchmark: the benchmark's name.
        model: the model's name.
        weights: hash of the model's weights.

    Raises:
        UserError: nothing was chosen for one of them, or not from the same trials.
    """
    wanted = [variant for variant in VARIANTS if variant in settings.variants]
    homes = {"tuned": benchmark, "tuned_on_all": ALL}
    files = {
        variant: tuned_file(settings.output_dir, home, model)
        for variant, home in homes.items()
        if variant in wanted
    }
    choices = {variant: read_tuned(file) for variant, file in files.items()}
    used: list[dict[str, Any]] = []
    found = []
    for cell in cells:
        as_is = replace(cell, settings="published")
        mine = {each: _chosen(cell, each, choices[each], weights, files[each]) for each in files}
        if "published" in wanted or all(entry is None for entry in mine.values()):
            found.append(as_is)
        for variant, entry in mine.items():
            if entry is not None:
                used.append(entry)
                changed = with_parameters(cell, entry["chosen"])
                found.append(replace(changed, name=f"{cell.name}+{variant}", settings=variant))
    _check_alike(used)
    return found


def _chosen(
    cell: Cell, variant: str, choices: Mapping[str, Any], weights: str, file: Path
) -> dict[str, Any] | None:
    """What was chosen for a cell; None if it has none of the parameters that there were."""
    key = _key(cell, weights) if variant == "tuned" else _same(cell, weights)
    if key in choices:
        entry: dict[str, Any] = choices[key]
        return entry
    spaces = [entry["space"] for entry in choices.values()]
    if cell.method.kv_size is None or (
        spaces and not any(own_settings(cell, space) for space in spaces)
    ):
        return None
    on = "" if variant == "tuned" else " on two or more benchmarks with this output_dir="
    raise UserError(
        f"no settings were chosen for {cell.name} at kv_size={cell.method.kv_size} ({file})",
        allowed="methods, sizes and models that settings were chosen for",
        do=f"first run with experiment=choose_settings method={cell.name} "
        f"kv_size={cell.method.kv_size}{on}",
    )


def _check_alike(used: Sequence[Mapping[str, Any]]) -> None:
    """Raises `UserError` where one method was given another space or more trials than another."""
    for entry in used[1:]:
        for key in _ALIKE:
            if entry[key] != used[0][key]:
                raise UserError(
                    f"settings of {used[0]['method']} at {used[0]['kv_size']} and "
                    f"{entry['method']} at {entry['kv_size']} were chosen from another {key}",
                    allowed="one space and as many trials for all",
                    do="choose for all of them in one run with experiment=choose_settings",
                )


def _means(by_task: Measured) -> dict[str, float | None]:
    """Mean score and divergence of the tasks' means."""
    scores = [sum(score for score, _ in rows) / len(rows) for rows in by_task.values()]
    known = [[kl for _, kl in rows if kl is not None] for rows in by_task.values()]
    return _mean(scores, [sum(each) / len(each) if each else None for each in known])


def _mean(scores: Sequence[float], kls: Sequence[float | None]) -> dict[str, float | None]:
    """Means of scores, and of those divergences that there are, of tasks or of benchmarks."""
    known = [each for each in kls if each is not None]
    return {
        "score": round(sum(scores) / len(scores), _DIGITS),
        "kl": round(sum(known) / len(known), _DIGITS) if known else None,
    }


def _told(entry: Mapping[str, Any]) -> str:
    """A choice in one line."""
    top, first = best(entry["tried"]), entry["tried"][0]
    words = [f"{path.rpartition('.')[2]} {value}" for path, value in entry["chosen"].items()]
    kept = "as published" if top is first else ", ".join(words)
    return (
        f"{entry['method']} at {entry['kv_size']}, {' + '.join(entry['families'])}: {kept} "
        f"({top['score']:.1f}, published {first['score']:.1f}; best of {len(entry['tried'])})"
    )


def _same(cell: Cell, weights: str) -> str:
    """What a choice holds for on any benchmark: the published method and the model's weights."""
    return digest([cell.identity, weights])


def _key(cell: Cell, weights: str) -> str:
    """The same with what the question is to the compression."""
    return digest([cell.identity, weights, cell.compress_on])
