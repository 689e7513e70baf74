"""Paired tests between the methods of one benchmark and model, example by example."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.names import method_order
from headkv.report.stats.intervals import bootstrap_ci, group_mean
from headkv.report.stats.significance import (
    discordant,
    holm,
    is_hit_or_miss,
    mcnemar,
    permutation_test,
)
from headkv.report.stats.summary import expected_counts, weights_of

REFERENCES = ("headkv_r2", "snapkv", "adakv")  # every method is tested against each of these


TEST_COLUMNS = [
    "kv_size",
    "protocol",
    "granularity",
    "first",
    "second",
    "n",
    "expected",
    "difference",
    "ci_low",
    "ci_high",
    "first_better",
    "second_better",
    "test",
    "p",
    "p_holm",
]


def paired_tests(rows: pd.DataFrame) -> pd.DataFrame:
    """Tests every method against each of `REFERENCES`, at each KV size, on shared examples.

    A pair is tested once, both methods under one protocol and granularity; the tests of one KV
    size, protocol and granularity are one family for Holm's correction. A pair that shares fewer
    examples than expected is not tested.

    Returns:
        One line a pair: `TEST_COLUMNS`, most of them what `compare` finds.
    """
    expected = int(expected_counts(rows).sum())
    lines: list[dict[str, Any]] = []
    setting = ["kv_size", "protocol", "granularity"]
    for key, family in rows[rows["kv_size"].notna()].groupby(setting):
        scores = dict(list(family.groupby("method")))
        tests = [
            {"first": first, "second": second} | compare(scores[first], scores[second], expected)
            for first, second in _pairs(sorted(scores, key=method_order))
        ]
        corrected = holm([test["p"] for test in tests])
        for test, p_holm in zip(tests, corrected, strict=True):
            lines.append(dict(zip(setting, key, strict=True)) | test | {"p_holm": float(p_holm)})
    return pd.DataFrame(lines, columns=TEST_COLUMNS)


def _pairs(methods: list[str]) -> list[tuple[str, str]]:
    """Each unordered pair with a reference in it, the earlier reference named first."""
    ranked = [m for m in REFERENCES if m in methods] + [m for m in methods if m not in REFERENCES]
    return [pair for pair in combinations(ranked, 2) if pair[0] in REFERENCES]


def compare(first: pd.DataFrame, second: pd.DataFrame, expected: int) -> dict[str, Any]:
    """A paired test of two cells: exact McNemar for hits and misses, else a permutation test.

    Args:
        first: rows of one cell.
        second: of the other.
        expected: examples that both should have; with fewer there is no test.

    Returns:
        `n` shared examples of `expected`, `difference` (first minus second, with `ci_low`,
        `ci_high`), `first_better`, `second_better` (examples), `test`, `p`.
    """
    sides = {
        side: rows.assign(weight=weights_of(rows)).set_index(["task", "id"])[["score", "weight"]]
        for side, rows in (("first", first), ("second", second))
    }
    both = pd.concat(sides, axis=1, join="inner").sort_index()
    found: dict[str, Any] = {"n": len(both), "expected": expected, "p": float("nan"), "test": ""}
    if len(both) < expected or both.empty:
        return found
    a, b = both["first"]["score"], both["second"]["score"]
    weights = [part.to_numpy() for _, part in both["first"]["weight"].groupby(level="task")]
    difference = [part.to_numpy(dtype=float) for _, part in (a - b).groupby(level="task")]
    found["difference"] = group_mean(difference, weights)
    found["ci_low"], found["ci_high"] = bootstrap_ci(difference, weights)
    found["first_better"], found["second_better"] = discordant(a, b)
    if is_hit_or_miss(a) and is_hit_or_miss(b) and all(np.ptp(w) == 0 for w in weights):
        return found | {"test": "McNemar", "p": mcnemar(a, b)}
    return found | {"test": "permutation", "p": permutation_test(difference, weights)}
