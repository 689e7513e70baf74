"""The masking experiment: accuracy by how many heads are off, a kind's best against random ones."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from headkv.errors import choose
from headkv.report.figures.axes import error_bars, save_figure
from headkv.report.figures.style import PLOT_STYLE, grid_look
from headkv.report.heads.figures import look
from headkv.report.heads.tables import write_table
from headkv.report.load import load_results
from headkv.report.stats.intervals import bootstrap_ci, group_mean, mean_ci
from headkv.report.stats.significance import holm, is_hit_or_miss, mcnemar, permutation_test
from headkv.report.tables.table import Table

RANDOM, NONE = "random", "none"
ENDS = ("accuracy", "ci_low", "ci_high")


def write_masking(rows_dir: str | Path, model: str, folder: Path) -> list[Path]:
    """Writes `masking.{csv,md,png,pdf}`.

    Args:
        rows_dir: the folder that holds `needle/<model>/<heads>-<how many>/full/*.jsonl`.
        model: its name.
        folder: where to.

    Returns:
        The files, in the order written.

    Raises:
        UserError: there are no rows, or none of this model.
    """
    rows = load_results(rows_dir)
    choose("model", model, sorted(set(rows["model"])))
    cells = masking(rows[rows["model"] == model])
    written = write_table(folder, "masking", cells, [masking_table(cells, model)])
    with matplotlib.rc_context(PLOT_STYLE):
        written += save_figure(masking_figure(cells, model), folder, "masking")
    return written


def masking(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with each choice of heads switched off, and its difference to random heads.

    Args:
        rows: of one model; `method` is `<heads>-<how many>`, random heads' draws are numbered.

    Returns:
        One line a choice: `off` (a kind, "random" or "none"), `heads`, `draws`, `n` examples,
        `accuracy` with `ci_low` and `ci_high`; for a kind also `difference` to as many random heads
        on the same examples, with `difference_low`, `difference_high`, `test`, `p` and Holm's
        `p_holm`. Examples that a choice has not answered yet leave its line out.
    """
    names = rows["method"].str.rpartition("-")
    frame = rows.assign(heads=names[2].astype(int), choice=names[0])
    frame["off"] = frame["choice"].where(~frame["choice"].str.startswith(RANDOM), RANDOM)
    example = frame.groupby(["off", "heads", "task", "id"])["score"].mean()
    draws = frame.groupby(["off", "heads"])["choice"].nunique()
    # A random choice's example counts once all its draws have answered.
    answered = frame.groupby(["off", "heads", "task", "id"]).size()
    whole = answered == draws.reindex(answered.index.droplevel(["task", "id"])).to_numpy()
    cells = {key: part.droplevel([0, 1]) for key, part in example[whole].groupby(level=[0, 1])}
    expected = max(map(len, cells.values()))
    lines: list[dict[str, Any]] = []
    for (off, heads), scores in cells.items():
        if len(scores) < expected:
            continue
        low, high = mean_ci(_by_task(scores))
        line = {"off": off, "heads": heads, "draws": int(draws[off, heads]), "n": len(scores)}
        line |= {"accuracy": group_mean(_by_task(scores)), "ci_low": low, "ci_high": high}
        other = cells.get((RANDOM, heads))
        if off not in (RANDOM, NONE) and other is not None and len(other) == expected:
            line |= _compare(scores, other)
        lines.append(line)
    columns = [
        "off",
        "heads",
        "draws",
        "n",
        "accuracy",
        "ci_low",
        "ci_high",
        "difference",
        "difference_low",
        "difference_high",
        "test",
        "p",
    ]
    found = pd.DataFrame(lines, columns=columns)
    found["p_holm"] = holm(found["p"].to_numpy(dtype=float))
    rank = found["off"].map({NONE: 0, RANDOM: 2}).fillna(1)
    return (
        found.assign(rank=rank)
        .sort_values(["rank", "off", "heads"], ignore_index=True)
        .drop(columns="rank")
    )


def _by_task(scores: "pd.Series[float]") -> list[Any]:
    return [part.to_numpy(dtype=float) for _, part in scores.groupby(level="task")]


def _compare(scores: "pd.Series[float]", random: "pd.Series[float]") -> dict[str, Any]:
    """A paired test; exact McNemar where one draw of random heads leaves hits and misses."""
    difference = _by_task(scores - random.reindex(scores.index))
    low, high = bootstrap_ci(difference)
    found = {"difference": group_mean(difference), "difference_low": low, "difference_high": high}
    if is_hit_or_miss(scores) and is_hit_or_miss(random):
        return found | {"test": "McNemar", "p": mcnemar(scores, random.reindex(scores.index))}
    return found | {"test": "permutation", "p": permutation_test(difference)}


def masking_table(cells: pd.DataFrame, model: str) -> Table:
    """The experiment as a table, a line a choice of heads.

    Args:
        cells: of `masking`.
        model: for the caption.
    """
    rows = []
    for _, cell in cells.iterrows():
        row = [
            str(cell["off"]),
            str(cell["heads"]),
            f"{cell['accuracy']:.1f} [{cell['ci_low']:.1f}, {cell['ci_high']:.1f}]",
        ]
        if pd.isna(cell["p"]):
            rows.append([*row, "", "", ""])
            continue
        interval = f"[{cell['difference_low']:+.1f}, {cell['difference_high']:+.1f}]"
        rows.append(
            [*row, f"{cell['difference']:+.1f} {interval}"]
            + [f"{cell[p]:.4f}" if cell[p] >= 1e-4 else "<0.0001" for p in ("p", "p_holm")]
        )
    n, draws = int(cells["n"].max()), int(cells["draws"].max())
    header = ["Heads off", "How many", "Accuracy [95% CI]", "Minus random", "p", "p (Holm)"]
    note = (
        f"Full cache. Random: mean of {draws} draws among heads that are no kind's best. Paired "
        "tests on the same examples, two-sided; Holm over all of them."
    )
    return Table(f"needle, {model}: best heads switched off, n = {n}", header, rows, note)


def masking_figure(cells: pd.DataFrame, model: str) -> Figure:
    """Accuracy by how many heads are off, a line a choice of heads.

    Args:
        cells: of `masking`.
        model: for the title.
    """
    figure = Figure(figsize=(5.4, 3.3), layout="constrained")
    axes = figure.subplots()
    start = cells[cells["off"] == NONE]
    names = [name for name in dict.fromkeys(cells["off"]) if name != NONE]
    marks: dict[str, Any] = {"elinewidth": 0.8, "capsize": 2, "marker": "o", "markersize": 4}
    # Beside one another, not on top: lines that fall to zero together would hide each other.
    step = 0.009 * float(cells["heads"].max())
    for place, name in enumerate(names):
        part = cells[cells["off"] == name]
        plot = {"color": "#7F7F7F", "linestyle": ":"} if name == RANDOM else look(name, place)
        label = f"{name} heads" if name == RANDOM else f"best {name}"
        x = part["heads"] + step * (place - (len(names) - 1) / 2)
        axes.plot([*start["heads"], *x], [*start["accuracy"], *part["accuracy"]], **plot)
        axes.errorbar(
            x, part["accuracy"], yerr=error_bars(part, *ENDS), label=label, **marks, **plot
        )
    axes.errorbar(
        start["heads"], start["accuracy"], yerr=error_bars(start, *ENDS), color="black", **marks
    )
    axes.set(xlabel="heads switched off", ylabel="accuracy in %, 95% CI", ylim=(-2, 103))
    axes.set_xticks(sorted(set(cells["heads"])))
    axes.grid(axis="y", **grid_look())
    axes.set_title(f"needle, {model}, full cache, n = {int(cells['n'].max())}", loc="left")
    if names:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
    return figure
