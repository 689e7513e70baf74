"""What compression does to the model's predictions, where rows have measured it."""

from typing import Any

import numpy as np
import pandas as pd

from headkv.report.stats.intervals import bootstrap_ci, group_mean
from headkv.report.stats.summary import ALL_TASKS, CELL, expected_counts

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
    for key, cell in values.groupby(CELL, dropna=False):
        head = dict(zip(CELL, key, strict=True))
        tasks = [part for _, part in cell.groupby("task")]
        for part in tasks:
            task = str(part["task"].iloc[0])
            lines.append(head | {"task": task} | _describe([part], int(expected[task])))
        lines.append(head | {"task": ALL_TASKS} | _describe(tasks, int(expected.sum())))
    frame = pd.DataFrame(lines)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    return frame


def _describe(parts: list[pd.DataFrame], expected: int) -> dict[str, Any]:
    line: dict[str, Any] = {"n": sum(map(len, parts)), "expected": expected}
    for measure in MEASURES:
        # An answer of one token has no divergence: the first token is not the cache's.
        groups = [part[measure].dropna().to_numpy() for part in parts]
        if line["n"] < expected or not all(len(group) for group in groups):
            line |= dict.fromkeys((measure, f"{measure}_low", f"{measure}_high"), np.nan)
            continue
        low, high = bootstrap_ci(groups)
        line |= {measure: group_mean(groups), f"{measure}_low": low, f"{measure}_high": high}
    return line
