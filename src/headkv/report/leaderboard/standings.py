"""What a leaderboard shows: a line a method, KV size, question seen or not, and benchmark."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.report.groups import Group
from headkv.report.names import method_order, variant_of
from headkv.report.stats.best import BEST
from headkv.report.stats.summary import ALL_TASKS, CELL
from headkv.storage.tree import run_records

SETTING = ["model", "benchmark", "compress_on", "kv_size", "protocol", "granularity"]
COLUMNS = [
    "model",
    "benchmark",
    *CELL,
    "n",
    "expected",
    "accuracy",
    "ci_low",
    "ci_high",
    "mark",
    "best",
    "p_best",
    "needed",
    "budget",
    "cache_share",
    "cache_mb",
    "kept_tokens",
    "seconds",
]
_FOLDERS = re.compile(r"(?<=[=,\[])/[^,\]\s]*/(?=[^/])")
RUN = ("command", "commit", "uncommitted_changes", "versions", "machine", "weights", "data")


def standings(groups: Sequence[Group]) -> pd.DataFrame:
    """Every cell's mean over its benchmark's tasks.

    A benchmark that measures its tasks at several lengths stands there once a length (`ruler 4k`).

    Args:
        groups: of `grouped`.

    Returns:
        One line a cell and benchmark, with `COLUMNS`: `best` is the best method of the same
        benchmark, question, KV size, protocol and storage, as published or with chosen settings as
        it is, `p_best` the Holm-corrected p of the paired test against it, and `budget` the share
        of the cache that it stands under, of `budget`. Incomplete cells have no numbers.
    """
    found = []
    for group in groups:
        cells = group.cells[group.cells["task"] == ALL_TASKS].assign(benchmark=group.benchmark)
        if group.lengths is not None:
            lengths = group.lengths
            cells = lengths[(lengths["task"] == ALL_TASKS) & (lengths["part"] != ALL_TASKS)]
            cells = cells.assign(benchmark=group.benchmark + " " + cells["part"].astype(str))
        found.append(cells.assign(model=group.model))
    frame = pd.concat(found, ignore_index=True)
    frame["variant"] = frame["method"].map(variant_of)
    alike = [*SETTING, "variant"]
    best = frame[frame["mark"] == BEST].groupby(alike)["method"].first().rename("best")
    frame = frame.join(best, on=alike).astype({"best": object})
    sizes = frame.assign(budget=frame["cache_share"].map(budget, na_action="ignore"))
    # A cell that lacks examples has no share: it stands where others of its size do.
    others = sizes.groupby(["model", "benchmark", "kv_size"])["budget"].transform("first")
    frame["budget"] = sizes["budget"].fillna(others).where(frame["kv_size"].notna())
    order = [method_order(name) for name in frame["method"]]
    frame["place"] = pd.Series(order, index=frame.index).rank(method="dense")
    by = ["model", "compress_on", "kv_size", "place", "protocol", "granularity", "benchmark"]
    frame = frame.sort_values(by, na_position="first", ignore_index=True)
    return frame.reindex(columns=COLUMNS)


def budget(share: float) -> float:
    """The share of the cache that cells are compared at, percent: the nearest of 100, 50, 25 ...

    Nearest by ratio. KV sizes do not compare between benchmarks whose prompts differ in length, nor
    entries of 16 bits with those of 4; shares of the full cache's bytes do.

    Args:
        share: bytes held, in percent of the full cache's.
    """
    return 100 / 2.0 ** max(round(-math.log2(share / 100)), 0)


def provenance(groups: Sequence[Group], root: Path) -> list[dict[str, Any]]:
    """Where the numbers are from: how many rows, their hash, and every run that wrote them.

    The hash is of every row's key and score: who has the rows can prove that the table is theirs.

    Args:
        groups: of `grouped`.
        root: the results folder.
    """
    found = []
    for group in groups:
        rows = group.rows
        keys = sorted(zip(rows["run_key"].astype(str), rows["id"], rows["score"], strict=True))
        sha = hashlib.sha256("\n".join(map(repr, keys)).encode()).hexdigest()
        benchmark = str(rows["benchmark"].iloc[0])
        runs = [
            {name: record.get(name) for name in ("started", "finished", *RUN)}
            | {"command": _anywhere(record.get("command"))}
            for record in run_records(root / benchmark / group.model)
        ]
        seeds = sorted({int(seed) for seed in rows["seed"].dropna()}) if "seed" in rows else []
        found.append(
            {
                "benchmark": group.benchmark,
                "model": group.model,
                "examples": len(rows[["task", "id"]].drop_duplicates()),
                "tasks": sorted(map(str, rows["task"].unique())),
                "rows": len(rows),
                "rows_sha256": sha,
                "seeds": seeds,
                "runs": runs,
            }
        )
    return found


def _anywhere(command: Any) -> Any:
    """A command without the folders of the machine it ran on: of a path, the last name is left."""
    if isinstance(command, list):
        return [_anywhere(each) for each in command]
    return _FOLDERS.sub("", command) if isinstance(command, str) else command
