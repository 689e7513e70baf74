"""Tables of paired tests: methods against each other, `paper` against `corrected`."""

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import DEFAULT_SETTING, method_name, question_name, size_name
from headkv.report.stats.summary import ALL_TASKS, VARIANT
from headkv.report.tables.layout import (
    ASKED,
    INTERVAL,
    NOT_RUN,
    SEEN,
    asked,
    in_order,
    note,
    p_value,
)
from headkv.report.tables.table import Table

KINDS = {"McNemar": "exact McNemar", "permutation": "paired permutation (scores not hit/miss)"}
DIFFERENCE = f"{INTERVAL} Better: examples with a higher score. {SEEN}"


NOTHING = (
    "No pair to test: that takes two compressed methods at one KV size, under the same protocol, "
    "storage and question. Name them together, for example method=[snapkv,headkv_r2] kv_size=128."
)


def paired_table(tests: pd.DataFrame, benchmark: str, model: str) -> Table:
    """The paired tests, ready to read: a line a pair of methods and KV size.

    Args:
        tests: of `paired_tests`.
        benchmark: for the caption.
        model: for the caption.
    """
    header = [
        "Cache",
        "Question",
        "A",
        "B",
        "n",
        "A - B [95% CI]",
        "A better",
        "B better",
        "p",
        "p (Holm)",
    ]
    rows = []
    for _, test in tests.iterrows():
        setting = (test["protocol"], test["granularity"])
        shown = [size_name(test["kv_size"]), question_name(test["compress_on"])]
        shown += [method_name(test[side], *setting) for side in ("first", "second")]
        rows.append([*shown, *_tested(test)])
    title = f"{titled(benchmark, model)}: paired tests on the same examples"
    told = f"{_used(tests)} Holm: over all tests of one cache size. {DIFFERENCE} {note(rows)}"
    return Table(title, header, rows, told.strip() if rows else NOTHING)


def protocol_table(changes: pd.DataFrame, benchmark: str, model: str) -> Table:
    """`paper` beside `corrected`, ready to read: a line a method, KV size and task.

    Args:
        changes: of `protocol_differences`.
        benchmark: for the caption.
        model: for the caption.
    """
    header = [
        *ASKED,
        "Cache",
        "Task",
        "Storage: paper, corrected",
        "paper",
        "corrected",
        "n",
        "corrected - paper [95% CI]",
        "corrected better",
        "paper better",
        "p",
        "p (Holm)",
    ]
    rows = []
    plain = dict(zip(("protocol", "granularity"), DEFAULT_SETTING, strict=True))
    for key, part in in_order(changes.assign(**plain), [*VARIANT, "kv_size"]):
        for _, line in part.iterrows():
            storage = [line[f"{p}_granularity"].replace("_", " ") for p in ("paper", "corrected")]
            task = "mean" if line["task"] == ALL_TASKS else line["task"]
            means = [
                NOT_RUN if pd.isna(line[p]) else f"{line[p]:.1f}" for p in ("paper", "corrected")
            ]
            shown = [*asked(key), size_name(key[-1]), task, ", ".join(storage), *means]
            rows.append([*shown, *_tested(line)])
    title = f"{titled(benchmark, model)}: protocol paper and corrected on the same examples"
    told = f"{_used(changes)} Holm: over all lines of one task. {DIFFERENCE} {note(rows)}"
    return Table(title, header, rows, told.strip())


def _used(tests: pd.DataFrame) -> str:
    used = " and ".join(KINDS[kind] for kind in sorted(set(tests["test"].dropna()) - {""}))
    if not used:
        return "No test yet: no pair of cells shares all examples that there are."
    return f"Test: {used}, two-sided."


def _tested(test: pd.Series) -> list[str]:
    """n, difference, discordant examples and p values of one line of tests."""
    if test["n"] < test["expected"]:
        return [f"{test['n']}/{test['expected']}", *[NOT_RUN] * 5]
    low, high = test["ci_low"], test["ci_high"]
    ends = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    counts = [f"{test[f'{side}_better']:.0f}" for side in ("first", "second")]
    p_values = [p_value(test["p"]), p_value(test["p_holm"])]
    return [f"{test['n']}", f"{test['difference']:+.1f}{ends}", *counts, *p_values]
