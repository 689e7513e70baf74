"""Fewer bits and more entries against 16 bits in the same bytes, example by example."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.stats.fidelity import fidelity_cells
from headkv.report.stats.paired import compare
from headkv.report.stats.scored import cell_key, scored
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import ALL_TASKS, VARIANT, expected_counts

APART = 0.06  # of the bytes, at most: a group of entries shares its scales, and lists differ
_BITS = re.compile(r"\+(\d+)bit\b")


def equal_bytes(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Every compressed cell of 16 bits, and those of fewer bits that hold as many bytes.

    Args:
        rows: of one benchmark and model.
        cells: what `summarise` makes of them.

    Returns:
        A line a cell: `VARIANT` of the 16-bit cell, `entries_16` (its KV size), `bits`, `kv_size`,
        `cache_mb`, `n`, `expected`, `accuracy`, `ci_low`, `ci_high`, `kl`; and against 16 bits what
        `compare` finds, as `difference`, `difference_low`, `difference_high`, `better`, `worse`,
        `p`, and of the divergences `kl_difference`, `kl_p`; `p_holm` and `kl_p_holm` over all
        lines. None where there are no such cells.
    """
    whole = cells[(cells["task"] == ALL_TASKS) & cells["kv_size"].notna()]
    fidelity = fidelity_cells(rows)
    kl = {
        cell_key(line): line["kl"] for _, line in fidelity[fidelity["task"] == ALL_TASKS].iterrows()
    }
    by_bits: dict[tuple[Any, ...], list[tuple[int, pd.Series]]] = {}
    for _, line in whole.iterrows():
        found = _BITS.search(str(line["method"]))
        plain = _BITS.sub("", str(line["method"]))
        bits = 16 if found is None else int(found[1])
        by_bits.setdefault((plain, *line[VARIANT[1:]]), []).append((bits, line))
    lines: list[dict[str, Any]] = []
    against: dict[int, tuple[Any, Any]] = {}  # place of a line -> its key in `scored`, the 16 bits'
    for variant, members in by_bits.items():
        for base in (line for bits, line in members if bits == 16):
            others = [
                (width, min(near, key=lambda line: abs(line["cache_mb"] - base["cache_mb"])))
                for width in (8, 4, 2)
                if (near := [line for bits, line in members if bits == width and _near(line, base)])
            ]
            for bits, line in [(16, base), *others] if others else []:
                if bits < 16:
                    against[len(lines)] = cell_key(line), cell_key(base)
                lines.append(
                    dict(zip(VARIANT, variant, strict=True))
                    | {"entries_16": base["kv_size"], "bits": bits}
                    | {key: line[key] for key in ("kv_size", "cache_mb", "n", "expected")}
                    | {key: line[key] for key in ("accuracy", "ci_low", "ci_high")}
                    | {"kl": kl.get(cell_key(line), np.nan)}
                )
    expected = [int(expected_counts(rows).sum())] * len(against)
    for place, test in _tested(rows, against, expected):
        lines[place] |= {
            "difference": test["difference"],
            "difference_low": test["ci_low"],
            "difference_high": test["ci_high"],
            "better": test["first_better"],
            "worse": test["second_better"],
            "p": test["p"],
        }
    for place, test in _tested(_diverged(rows), against, expected):
        lines[place] |= {"kl_difference": test["difference"], "kl_p": test["p"]}
    frame = pd.DataFrame(lines)
    for p in {"p", "kl_p"} & set(frame):
        has = frame[p].notna()
        frame.loc[has, f"{p}_holm"] = holm(frame.loc[has, p].to_numpy(dtype=float))
    return frame


def _tested(
    rows: pd.DataFrame, against: Mapping[int, tuple[Any, Any]], expected: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What `compare` finds of pairs that share all examples, by their places."""
    known = scored(rows) if len(rows) else {}
    there = {place: pair for place, pair in against.items() if {*pair} <= {*known}}
    pairs = [(known[ours], known[theirs]) for ours, theirs in there.values()]
    for place, test in zip(there, compare(pairs, expected[: len(pairs)]), strict=True):
        if test["n"] == test["expected"]:
            yield place, test


def _diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that measured a divergence, with it in place of the score."""
    given = rows.get("fidelity", pd.Series(index=rows.index, dtype=object))
    found = [each.get("kl") if isinstance(each, dict) else None for each in given]
    return rows.assign(score=pd.array(found, dtype="Float64")).dropna(subset="score")


def _near(line: pd.Series, base: pd.Series) -> bool:
    return abs(float(line["cache_mb"] / base["cache_mb"]) - 1) <= APART
