"""Fewer bits and more entries against 16 bits in the same bytes, example by example."""

import re
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.stats.fidelity import fidelity_cells
from headkv.report.stats.paired import compare
from headkv.report.stats.scored import Scored, cell_key, scored
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
        `p`, `p_holm` (over all lines). None where there are no such cells.
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
    pairs: list[tuple[Scored, Scored] | None] = []
    known = scored(rows)
    for variant, members in by_bits.items():
        for _, base in ((bits, line) for bits, line in members if bits == 16):
            others = [
                min(near, key=lambda line: abs(line["cache_mb"] - base["cache_mb"]))
                for width in (8, 4, 2)
                if (near := [line for bits, line in members if bits == width and _near(line, base)])
            ]
            for line in [base, *others] if others else []:
                found = _BITS.search(str(line["method"]))
                lines.append(
                    dict(zip(VARIANT, variant, strict=True))
                    | {"entries_16": base["kv_size"], "bits": int(found[1]) if found else 16}
                    | {key: line[key] for key in ("kv_size", "cache_mb", "n", "expected")}
                    | {key: line[key] for key in ("accuracy", "ci_low", "ci_high")}
                    | {"kl": kl.get(cell_key(line), np.nan)}
                )
                ours, theirs = cell_key(line), cell_key(base)
                pairs.append(None if line is base else (known[ours], known[theirs]))
    tested = [place for place, pair in enumerate(pairs) if pair is not None]
    of = int(expected_counts(rows).sum())
    results = compare([pair for pair in pairs if pair is not None], [of] * len(tested))
    for place, test in zip(tested, results, strict=True):
        if test["n"] == of:
            lines[place] |= {
                "difference": test["difference"],
                "difference_low": test["ci_low"],
                "difference_high": test["ci_high"],
                "better": test["first_better"],
                "worse": test["second_better"],
                "p": test["p"],
            }
    frame = pd.DataFrame(lines)
    if len(frame) and "p" in frame:
        has = frame["p"].notna()
        frame.loc[has, "p_holm"] = holm(frame.loc[has, "p"].to_numpy(dtype=float))
    return frame


def _near(line: pd.Series, base: pd.Series) -> bool:
    return abs(float(line["cache_mb"] / base["cache_mb"]) - 1) <= APART
