"""What compression does to the model's predictions, where rows have measured it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.stats.intervals import Floats, Sample, bootstrap_cis, mean_cis
from headkv.report.stats.summary import ALL_TASKS, CELL, expected_counts

ROUNDING = 1e-9  # of means of equal numbers
MEASURES = ("logprob_difference", "kl", "agreement")


def fidelity_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of the measures, task by task and over all tasks.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.

    Returns:
        One line a cell and task: the columns of `CELL`, `task`, `n` examples with a measurement of
        `expected`, and for each of `MEASURES` its mean with `_low` and `_high`, NaN in an
        incomplete cell. `logprob_difference` and `kl` are in nats per token, `agreement` in %.
        No lines if nothing was measured.
    """
    given = rows.get("fidelity", pd.Series(index=rows.index, dtype=object))
    measured = rows[[isinstance(found, dict) for found in given]]
    names = ["n", "expected", *(f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high"))]
    if measured.empty:
        return pd.DataFrame(columns=[*CELL, "task", *names])
    found = pd.DataFrame(measured["fidelity"].to_list(), index=measured.index).astype(float)
    values = measured[[*CELL, "task", "id"]].assign(
        logprob_difference=found["reference_logprob"] - found["reference_logprob_full"],
        kl=found["kl"],
        agreement=100 * found["agreement"],
    )
    expected = expected_counts(rows)
    lines: list[dict[str, Any]] = []
    samples: dict[tuple[int, str], Sample] = {}
    for key, cell in values.groupby(CELL, dropna=False):
        head = dict(zip(CELL, key, strict=True))
        tasks = {str(task): _measured(part) for task, part in cell.groupby("task")}
        for task, parts, of in [
            *((task, [part], int(expected[task])) for task, part in tasks.items()),
            (ALL_TASKS, list(tasks.values()), int(expected.sum())),
        ]:
            n = sum(part.n for part in parts)
            for measure in MEASURES:
                groups = [part.values[measure] for part in parts]
                if n == of and all(len(group) for group in groups):
                    samples[len(lines), measure] = Sample(groups)
            lines.append(head | {"task": task, "n": n, "expected": of})
    bounded = {key: sample for key, sample in samples.items() if key[1] == "agreement"}
    others = {key: sample for key, sample in samples.items() if key not in bounded}
    ends = dict(zip(bounded, mean_cis(list(bounded.values())), strict=True))
    ends |= dict(zip(others, bootstrap_cis(list(others.values())), strict=True))
    for (place, measure), sample in samples.items():
        low, high = ends[place, measure]
        if high - low < ROUNDING:  # nothing bounds nats, so that equal ones have no interval
            low = high = float("nan")
        found_here = {measure: sample.mean, f"{measure}_low": low, f"{measure}_high": high}
        lines[place] |= found_here
    frame = pd.DataFrame(lines, columns=[*CELL, "task", *names])
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    return frame


@dataclass(frozen=True)
class _Measured:
    """A task of a cell: how many examples were measured, and what of each measure."""

    n: int
    values: dict[str, Floats]


def _measured(rows: pd.DataFrame) -> _Measured:
    # An answer of one token has no divergence: the first token is not the cache's.
    columns = {measure: rows[measure].to_numpy(dtype=float) for measure in MEASURES}
    return _Measured(len(rows), {name: each[~np.isnan(each)] for name, each in columns.items()})
