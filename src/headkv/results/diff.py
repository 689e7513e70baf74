"""Two runs, folders or methods against each other, example by example."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headkv.errors import UserError
from headkv.report.load import load_results
from headkv.report.names import method_name, question_name, size_name
from headkv.report.stats.paired import compare
from headkv.report.stats.scored import scored
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import CELL
from headkv.report.tables.layout import p_value
from headkv.report.tables.table import Table
from headkv.storage.tree import result_files

LEVEL = 0.05
OTHER = "other_"  # begins the names of B's columns
KEYS = ["benchmark", "model", *CELL]
DEPTH = {"benchmark": 1, "model": 2, "method": 3, "kv_size": 4}
LINES = [
    *KEYS,
    "n",
    "first",
    "second",
    "difference",
    "ci_low",
    "ci_high",
    "first_better",
    "second_better",
    "answers_differ",
    "p",
    "p_holm",
]
LEGEND = (
    "B - A: mean of the shared examples, 95% CI (bootstrap; exact binomial where all are equal). "
    "Other answers: examples with another text. p: exact McNemar for hits and misses, else a paired "
    "permutation test, two-sided; Holm: over all lines."
)


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: as the user gave it.
        rows: what is compared.
    """

    name: str
    rows: pd.DataFrame


def find(given: str, default: Path) -> Side:
    """The rows that a word stands for.

    Args:
        given: a results folder; a folder within one, down to a method's KV size; or a method of the
            default folder, `snapkv` or `snapkv/64` (`fullkv/full`).
        default: the results folder that methods are looked up in.

    Raises:
        UserError: there is nothing by that name.
    """
    path = Path(given)
    if path.is_dir():
        for root in (path, *path.absolute().parents):
            inside = path.absolute().relative_to(root.absolute())
            if len(inside.parts) <= max(DEPTH.values()) and result_files(root):
                return Side(given, _within(load_results(root), inside.parts, given))
        raise UserError(
            f"no results in {given}",
            allowed="a results folder, or one inside it",
            do="name the folder that output_dir= said",
        )
    rows = load_results(default)
    method, _, size = given.partition("/")
    mine = rows[rows["method"] == method]
    if size:
        sizes = mine["kv_size"].astype(object).map(lambda each: "full" if pd.isna(each) else each)
        mine = mine[sizes.astype(str) == size]
    if mine.empty:
        raise UserError(
            f"neither a folder nor a method of {default}: {given!r}",
            allowed=", ".join(sorted(rows["method"].unique())) + ", or with a size: snapkv/64",
            do="name two of these, or two folders",
        )
    return Side(given, mine)


def _within(rows: pd.DataFrame, parts: Sequence[str], given: str) -> pd.DataFrame:
    """The rows below `<benchmark>/<model>/<method>/<kv_size>`, as far as it goes."""
    for name, part in zip(("benchmark", "model", "method"), parts, strict=False):
        rows = rows[rows[name] == part]
    if len(parts) == DEPTH["kv_size"]:
        size = rows["kv_size"]
        rows = rows[size.isna() if parts[-1] == "full" else size.astype(str) == parts[-1]]
    if rows.empty:
        raise UserError(f"no rows in {given}", allowed="folders with rows", do="see `ls`")
    return rows


def differences(first: Side, second: Side) -> pd.DataFrame:
    """Tests every pair of cells that the two sides share.

    Cells are paired by benchmark, model, method, KV size, protocol, granularity and question. What
    is a single value on one side, and not among the other's, is what the comparison is about, and
    pairs with every value: `snapkv` against `headkv_r2` pairs their cells size by size.

    Args:
        first: A.
        second: B.

    Returns:
        One line a pair, with the columns `LINES`; `method`, `kv_size` and so on are A's. The
        difference is B minus A.

    Raises:
        UserError: they have no cell in common.
    """
    shared = [name for name in KEYS if not _about(first.rows[name], second.rows[name])]
    cells: list[dict[Any, pd.DataFrame]] = [
        {_plain(key): part for key, part in side.rows.groupby(KEYS, dropna=False)}
        for side in (first, second)
    ]
    places = [KEYS.index(name) for name in shared]
    lines: list[dict[str, Any]] = []
    pairs = []
    for a_key, a in cells[0].items():
        for b_key, b in cells[1].items():
            if any(a_key[place] != b_key[place] for place in places):
                continue
            # Both as cells of one table, whatever they are called.
            both = pd.concat([a.assign(kv_size=0), b.assign(kv_size=1)], ignore_index=True)
            named = dict(zip(CELL, _plain(a_key[2:]), strict=True)) | {"kv_size": None}
            both = both.assign(**{name: "" for name in named if name != "kv_size"})
            found = scored(both)
            left, right = sorted(found.items(), key=lambda each: each[0][-1])
            pairs.append((right[1], left[1]))
            other = {f"{OTHER}{name}": b_key[place] for place, name in enumerate(KEYS)}
            lines.append(dict(zip(KEYS, a_key, strict=True)) | other | _answers(a, b))
    if not lines or all(not line["n"] for line in lines):
        raise UserError(
            f"{first.name} and {second.name} share no examples",
            allowed="runs of the same benchmark and model",
            do="see `headkv results ls` for what is there",
        )
    tests = compare(pairs, [max(1, line["n"]) for line in lines])
    for line, test in zip(lines, tests, strict=True):
        line |= {name: test[name] for name in test if name in LINES and name != "n"}
        line["first_better"], line["second_better"] = (
            test.get("second_better", 0),
            test.get("first_better", 0),
        )
    others = [f"{OTHER}{name}" for name in KEYS]
    frame = pd.DataFrame(lines, columns=[*LINES, *others, "only_first", "only_second"])
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=float))
    return frame


def _about(first: "pd.Series[Any]", second: "pd.Series[Any]") -> bool:
    """Whether the sides differ in this, so that it is what the comparison is about."""
    a, b = (set(_plain(each.unique())) for each in (first, second))
    return not a & b and min(len(a), len(b)) == 1


def _answers(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """How many examples the two share and do not, their means, and how many answers differ."""
    sides = [
        part.set_index(["task", "id"])[[name for name in ("score", "prediction") if name in part]]
        for part in (first, second)
    ]
    both = sides[0].add_suffix("_a").join(sides[1].add_suffix("_b"), how="inner")
    differ = np.nan
    if {"prediction_a", "prediction_b"} <= set(both):
        differ = float((both["prediction_a"] != both["prediction_b"]).sum())
    tasks = both.groupby(level="task")[["score_a", "score_b"]].mean().mean()
    return {
        "n": len(both),
        "first": float(tasks["score_a"]),
        "second": float(tasks["score_b"]),
        "answers_differ": differ,
        "only_first": len(sides[0]) - len(both),
        "only_second": len(sides[1]) - len(both),
    }


def _plain(key: Any) -> tuple[Any, ...]:
    return tuple(None if pd.isna(part) else part for part in key)


def _places(line: "pd.Series[Any]") -> list[str]:
    """What A's cell is called, column by column, with B's where that is another."""
    sides = []
    for side in ("", OTHER):
        method, protocol, granularity, on, size = (line[f"{side}{name}"] for name in CELL)
        name = method_name(method, protocol, granularity)
        place = [line[f"{side}benchmark"], line[f"{side}model"], name]
        sides.append([*place, question_name(on), size_name(size)])
    return [a if a == b else f"{a} / {b}" for a, b in zip(*sides, strict=True)]


def diff_table(found: pd.DataFrame, first: Side, second: Side) -> Table:
    """The differences, ready to read.

    Args:
        found: of `differences`.
        first: A.
        second: B.
    """
    header = ["Benchmark", "Model", "Method", "Question", "Cache", "n", "A", "B", "B - A [95% CI]"]
    header += ["A better", "B better", "Other answers", "p", "p (Holm)"]
    rows = []
    bold = set()
    for place, (_, line) in enumerate(found.iterrows()):
        where = [*_places(line), str(line["n"])]
        if not line["n"]:
            rows.append([*where, *["-"] * 8])
            continue
        ends = "" if pd.isna(line["ci_low"]) else f" [{line['ci_low']:+.1f}, {line['ci_high']:+.1f}]"
        other = "-" if pd.isna(line["answers_differ"]) else f"{line['answers_differ']:.0f}"
        better = [f"{line[f'{side}_better']:.0f}" for side in ("first", "second")]
        means = [f"{line['first']:.1f}", f"{line['second']:.1f}"]
        shown = [*means, f"{line['difference']:+.1f}{ends}", *better, other]
        if line["p_holm"] < LEVEL:
            bold.add((place, len(header) - 1))
        rows.append([*where, *shown, p_value(line["p"]), p_value(line["p_holm"])])
    title = f"A = {first.name}, B = {second.name}: the same examples under both"
    apart = int(found["only_first"].sum()), int(found["only_second"].sum())
    left = f" Not compared: {apart[0]} rows only in A, {apart[1]} only in B." if any(apart) else ""
    return Table(title, header, rows, LEGEND + left, frozenset(bold), legend="shown to differ.")
