"""Paired tests between the methods of one benchmark and model, example by example."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.names import method_order, variant_of
from headkv.report.stats.intervals import mean_cis
from headkv.report.stats.scored import Scored, scored
from headkv.report.stats.significance import (
    discordant,
    examples_needed,
    holm,
    is_hit_or_miss,
    mcnemar,
    permutation_tests,
)
from headkv.report.stats.summary import expected_counts

# Every method is tested against each of these, or the first there is where all are missing.
REFERENCES = ("headkv_r2", "snapkv", "adakv")
SETTING = ["kv_size", "protocol", "granularity", "compress_on"]

TEST_COLUMNS = [
    "kv_size",
    "protocol",
    "granularity",
    "compress_on",
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

    A pair is tested once, both methods under one protocol, granularity and `compress_on`; the tests
    of one KV size and the like are one family for Holm's correction. A pair that shares fewer
    examples than expected is not tested.

    Returns:
        One line a pair: `TEST_COLUMNS`, most of them what `compare` finds.
    """
    expected = int(expected_counts(rows).sum())
    families: dict[tuple[Any, ...], dict[str, Scored]] = {}
    for (method, *setting, size), cell in scored(rows).items():
        if size is not None:
            families.setdefault((size, *setting), {})[method] = cell
    lines: list[dict[str, Any]] = []
    pairs: list[tuple[Scored, Scored]] = []
    for key, methods in sorted(families.items()):
        for first, second in _pairs(sorted(methods, key=method_order)):
            names = {"first": first, "second": second}
            lines.append(dict(zip(SETTING, key, strict=True)) | names)
            pairs.append((methods[first], methods[second]))
    found = compare(pairs, [expected] * len(pairs))
    lines = [line | test for line, test in zip(lines, found, strict=True)]
    frame = pd.DataFrame(lines, columns=TEST_COLUMNS)
    for _, family in frame.groupby(SETTING):
        frame.loc[family.index, "p_holm"] = holm(family["p"].to_numpy(dtype=float))
    return frame


def _pairs(methods: list[str]) -> list[tuple[str, str]]:
    """Each unordered pair with a reference in it, the earlier reference named first.

    Methods with chosen settings are tested against references with settings chosen alike, and each
    against itself as published.
    """
    found = []
    for variant in dict.fromkeys(map(variant_of, methods)):
        mine = [each for each in methods if variant_of(each) == variant]
        wanted = [f"{each}+{variant}".rstrip("+") for each in REFERENCES]
        references = [each for each in wanted if each in mine] or mine[:1]
        ranked = references + [each for each in mine if each not in references]
        found += [pair for pair in combinations(ranked, 2) if pair[0] in references]
        plain = [(each, each.removesuffix(f"+{variant}")) for each in mine if variant]
        found += [pair for pair in plain if pair[1] in methods]
    return found


def compare(
    pairs: Sequence[tuple[Scored, Scored]], expected: Sequence[int], intervals: bool = True
) -> list[dict[str, Any]]:
    """Paired tests of two cells each: exact McNemar for hits and misses, else permutation tests.

    Args:
        pairs: of cells of one benchmark and model.
        expected: examples that both should have; with fewer there is no test.
        intervals: whether the differences' intervals are wanted.

    Returns:
        For each pair `n` shared examples of `expected`, `difference` (first minus second, with
        `ci_low`, `ci_high`), `first_better`, `second_better` (examples), `test`, `p`, and
        `needed`, of `examples_needed`.
    """
    found: list[dict[str, Any]] = []
    samples, permuted = {}, {}
    for place, ((first, second), of) in enumerate(zip(pairs, expected, strict=True)):
        a, b = shared(first, second)
        n = len(a.examples)
        line = {"n": n, "expected": of, "p": float("nan"), "test": ""}
        found.append(line)
        if n < of or not n:
            continue
        samples[place] = sample = a.sample(a.scores - b.scores)
        line["difference"], line["needed"] = sample.mean, examples_needed(sample)
        line["first_better"], line["second_better"] = discordant(a.scores, b.scores)
        hits = is_hit_or_miss(a.scores) and is_hit_or_miss(b.scores)
        if hits and all(np.ptp(w) == 0 for w in sample.weights):
            line |= {"test": "McNemar", "p": mcnemar(a.scores, b.scores)}
        else:
            line["test"] = "permutation"
            permuted[place] = sample
    for place, p in zip(permuted, permutation_tests(list(permuted.values())), strict=True):
        found[place]["p"] = p
    if intervals:
        ends = mean_cis(list(samples.values()), signed=True)
        for place, (low, high) in zip(samples, ends, strict=True):
            found[place] |= {"ci_low": low, "ci_high": high}
    return found


def shared(first: Scored, second: Scored) -> tuple[Scored, Scored]:
    """Both cells, with the examples that they share."""
    if np.array_equal(first.examples, second.examples):
        return first, second
    _, mine, other = np.intersect1d(first.examples, second.examples, True, return_indices=True)
    return first.at(mine), second.at(other)
