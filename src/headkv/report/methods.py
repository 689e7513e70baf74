"""`headkv methods`: every method at every KV size, question seen or not, on one Markdown page."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.cli import Parser, front_door
from headkv.report.groups import Group, grouped
from headkv.report.leaderboard.standings import provenance, standings
from headkv.report.load import load_results, results_folder
from headkv.report.names import method_name, method_order, question_name
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import ALL_TASKS, CELL, VARIANT
from headkv.report.tables.layout import INTERVAL, NOT_RUN, note, score_ci, show
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes
from headkv.storage.reading import read_json
from headkv.storage.schemas import COSTS

MARK = "<!-- Below: written by `make methods`. Above: by hand, and kept. -->"
KL = ["kl", "kl_low", "kl_high"]
COST = Path("results/bench/compression_cost.json")
Form = Callable[[pd.Series], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and, beside it, its numbers as CSV; what stands above `MARK` is kept.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code.

    Raises:
        UserError: the folder has no usable results, or the costs cannot be read.
    """
    parser = Parser(prog="headkv methods", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "folder", nargs="?", help="results folder (default: results, or its sample)"
    )
    parser.add_argument(
        "--cost", type=Path, default=COST, help=f"of `make bench` (default: {COST})"
    )
    parser.add_argument("--out", type=Path, help="the page (default: tables/methods.md in it)")
    given = parser.parse_args(arguments)
    root = results_folder(given.folder)
    groups = grouped(load_results(root))
    path = given.out or root / "tables" / "methods.md"
    lines = compared(groups)
    texts = [table.to_markdown() for table in tables(lines, costs(given.cost))]
    above = path.read_text("utf-8").partition(MARK)[0] if path.exists() else "# Methods\n\n"
    page = "\n".join([f"{above}{MARK}\n", *texts, *map(_source, provenance(groups, root))])
    numbers = lines.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for written in (
        write_bytes(path, page.encode()),
        write_bytes(path.with_suffix(".csv"), numbers.encode()),
    ):
        print(f"wrote {written}")
    return 0


def compared(groups: Sequence[Group]) -> pd.DataFrame:
    """The leaderboard's lines with the divergence from the full cache's predictions beside them.

    Args:
        groups: of `grouped`.

    Returns:
        One line a cell and benchmark: what `standings` says, and `KL` in nats a token.
    """
    found = []
    for group in groups:
        name, lengths = group.benchmark, group.lengths
        if lengths is not None:  # the leaderboard has a benchmark a length, divergences only one
            parts = set(lengths["part"]) - {ALL_TASKS}
            name = f"{name} {parts.pop()}" if len(parts) == 1 else name
        whole = group.fidelity[group.fidelity["task"] == ALL_TASKS]
        found.append(whole[[*CELL, *KL]].assign(benchmark=name, model=group.model))
    keys = ["model", "benchmark", *CELL]
    return standings(groups).merge(pd.concat(found), how="left", on=keys)


def costs(path: Path) -> dict[str, str]:
    """What compressing takes by method, as `bench.compression_cost` wrote it; empty: no file.

    Raises:
        UserError: the file cannot be read.
    """
    if not path.exists():
        return {}
    found = read_json(
        path,
        COSTS,
        "costs of compression",
        allowed="a file of `python -m bench.compression_cost`",
        do="write it anew, or name another with --cost",
    )
    return {
        row["method"]: f"{row['percent']:.1f}"
        + (f" + {row['second_pass_percent']:.0f}" if row["second_pass_percent"] else "")
        for row in found["methods"]
    }


def tables(lines: pd.DataFrame, cost: dict[str, str]) -> list[Table]:
    """Of each benchmark a table of scores and one of divergences.

    Args:
        lines: of `compared`.
        cost: of `costs`.
    """
    found = []
    for (model, benchmark), mine in lines.groupby(["model", "benchmark"]):
        title = f"{benchmark}, {model}, n = {mine['expected'].max()}"
        found.append(_table(mine, f"{title}: score in % [95% CI]", score_ci, cost))
        found.append(_table(mine, f"{title}: KL in nats a token [95% CI]", _kl, cost))
    return found


def _table(lines: pd.DataFrame, title: str, form: Form, cost: dict[str, str]) -> Table:
    full, others = lines[lines["kv_size"].isna()], lines[lines["kv_size"].notna()]
    columns = sorted(
        {(size, on != "prompt", on) for size, on in others[["kv_size", "compress_on"]].values}
    )
    rows: list[list[str]] = []
    bold = set()
    groups = sorted(others.groupby(VARIANT[:3]), key=lambda group: method_order(group[0][0]))
    for key, mine in groups:
        row = [method_name(*key), cost.get(key[0], NOT_RUN)]
        for size, _, on in columns:
            cell = mine[(mine["kv_size"] == size) & (mine["compress_on"] == on)]
            line = None if cell.empty else cell.iloc[0]
            if form is score_ci and line is not None and line["mark"]:
                bold.add((len(rows), len(row)))
            row.append(show(line, form))
        rows.append(row)
    whole = [
        f"{question_name(cell['compress_on'])} {show(cell, form)}" for _, cell in full.iterrows()
    ]
    told = (
        "Cost: seconds of compression in % of the prefill's, and of a second pass. "
        f"{INTERVAL} {note(rows)} "
        + (f"Full cache: {', '.join(whole)}." if form is score_ci and whole else "")
    )
    header = ["Method", "Cost", *(f"{size}, {question_name(on)}" for size, _, on in columns)]
    return Table(title, header, rows, told.strip(), frozenset(bold), legend=LEGEND)


def _kl(cell: pd.Series) -> str:
    values = [cell[name] for name in KL]
    if pd.isna(values[0]):
        return NOT_RUN
    mean, low, high = (f"{value:.2f}" for value in values)
    return mean if pd.isna(values[1]) else f"{mean} [{low}, {high}]"


def _source(source: dict[str, Any]) -> str:
    commits = {str(run["commit"])[:10] for run in source["runs"] if run["commit"]}
    return (
        f"{source['benchmark']}, {source['model']}: {source['rows']} rows of {source['examples']} "
        f"examples, seeds {source['seeds']}, commits {', '.join(sorted(commits)) or 'not known'}, "
        f"SHA-256 of the rows' keys and scores {source['rows_sha256'][:16]}.\n"
    )


if __name__ == "__main__":
    sys.exit(front_door(main))
