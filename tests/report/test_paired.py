"""Which methods are tested against which, and on what."""

from pathlib import Path

import pytest

from headkv.report.load import load_results
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.significance import discordant, holm, mcnemar


def test_pairs_are_tested_once_and_on_the_same_examples(results: Path) -> None:
    rows = load_results(results)
    tests = paired_tests(rows)
    pairs = tests.groupby("kv_size")[["first", "second"]].apply(lambda p: p.to_numpy().tolist())
    assert pairs[64] == [
        ["headkv_r2", "snapkv"],
        ["headkv_r2", "adakv"],
        ["headkv_r2", "streamingllm"],
        ["snapkv", "adakv"],
        ["snapkv", "streamingllm"],
        ["adakv", "streamingllm"],
    ]
    test = tests.iloc[0]
    at_64 = rows[rows["kv_size"] == 64].pivot(index="id", columns="method", values="score")
    counts = discordant(at_64["headkv_r2"], at_64["snapkv"])
    assert (test["first_better"], test["second_better"]) == counts
    assert test["p"] == mcnemar(at_64["headkv_r2"], at_64["snapkv"])
    assert test["test"] == "McNemar"
    assert test["p_holm"] == pytest.approx(holm(tests[tests["kv_size"] == 64]["p"])[0])


def test_scores_between_hit_and_miss_are_permuted(
    tmp_path: Path, chance, make_row, write_rows
) -> None:
    for method, bonus in (("headkv_r2", 20.0), ("snapkv", 0.0)):
        rows = [
            make_row(method, 64, id=str(i), score=50 * chance(method, i) + bonus) for i in range(30)
        ]
        write_rows(tmp_path, method, 64, rows)
    test = paired_tests(load_results(tmp_path)).iloc[0]
    assert test["test"] == "permutation"
    assert test["p"] < 0.05
    assert test["ci_low"] < test["difference"] < test["ci_high"]
