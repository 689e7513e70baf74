"""The report layer on small made-up result folders: what is read, counted, tested and drawn."""

import ast
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import SKILL, chance, make_row, needle_rows, write

import headkv.report
from headkv.errors import UserError
from headkv.report.__main__ import main
from headkv.report.load import load_results
from headkv.report.names import method_name
from headkv.report.stats.intervals import bootstrap_ci, mean_ci
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.significance import discordant, holm, mcnemar, permutation_test
from headkv.report.stats.summary import ALL_TASKS, summarise
from headkv.report.tables.results import print_table, write_tables
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_atomic


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Five methods on the needle, three KV sizes, every cell complete."""
    root = tmp_path / "results"
    for method in SKILL:
        for size in [None] if method == "fullkv" else [64, 128, 256]:
            write(root, method, size, needle_rows(method, size))
    return root


# load


def test_load_names_every_row(results: Path) -> None:
    rows = load_results(results)
    assert len(rows) == 13 * 40
    assert set(rows["method"]) == set(SKILL)
    assert (rows[["benchmark", "model", "task"]].drop_duplicates().to_numpy().tolist()) == [
        ["needle", "tiny_model", "single"]
    ]
    assert rows.loc[rows["method"] == "fullkv", "kv_size"].isna().all()
    assert rows.loc[rows["method"] != "fullkv", "kv_size"].notna().all()


def test_load_takes_the_setting_with_the_most_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [make_row("snapkv", 64, id=str(i), run_key=f"old-{i}", score=0.0) for i in range(3)]
    new = [make_row("snapkv", 64, id=str(i), run_key=f"new-{i}") for i in range(3)]
    write(tmp_path, "snapkv", 64, old + new[:2])
    assert load_results(tmp_path)["score"].tolist() == [0.0] * 3
    error = capsys.readouterr().err
    assert "ignored 2 rows of runs with other settings (the newer ones are fewer)" in error
    assert str(tmp_path) not in error
    write(tmp_path, "snapkv", 64, old + new)  # of equals the newer one
    assert load_results(tmp_path)["score"].tolist() == [100.0] * 3


def test_load_takes_the_last_of_duplicates(tmp_path: Path) -> None:
    twice = [make_row("snapkv", 64, score=0.0), make_row("snapkv", 64, score=100.0)]
    write(tmp_path, "snapkv", 64, twice)
    assert load_results(tmp_path)["score"].tolist() == [100.0]


@pytest.mark.parametrize("torn", [b'{"id": "1", "sco', b'{"id": "\xc3', b"17"])
def test_load_ignores_a_torn_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], torn: bytes
) -> None:
    path = write(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    path.write_bytes(path.read_bytes() + torn)
    assert len(load_results(tmp_path)) == 1
    assert "half-written last line" in capsys.readouterr().err


def test_load_trusts_the_row_over_the_file_name(tmp_path: Path) -> None:
    write(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    paper = make_row("snapkv", 64, protocol="paper", granularity="query_head")
    write(tmp_path, "snapkv", 64, [paper], task="single@paper-query_head")
    rows = load_results(tmp_path)
    assert set(rows["task"]) == {"single"}
    assert len(summarise(rows)) == 4  # two cells, each with its task and its mean of tasks


def test_load_warns_when_prompts_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    write(tmp_path, "adakv", 64, [make_row("adakv", 64, prompt_tokens=999)])
    load_results(tmp_path)
    assert "1 examples have prompts of different lengths" in capsys.readouterr().err


def test_load_refuses_what_it_cannot_use(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'nedle'.*needle"):
        load_results(results, "nedle")
    with pytest.raises(UserError, match="no results in"):
        load_results(tmp_path / "nothing")
    row = make_row("snapkv", 64)
    for broken, what in (
        ({k: v for k, v in row.items() if k != "cache_bytes"}, "no cache_bytes"),
        (row | {"score": float("nan")}, "no usable score"),
    ):
        write(tmp_path / "broken", "snapkv", 64, [broken])
        with pytest.raises(UserError, match=what):
            load_results(tmp_path / "broken")


# stats


def test_mcnemar_by_hand() -> None:
    first, second = (
        [100.0] * 9 + [0.0] * 3 + [100.0] * 5,
        [0.0] * 8 + [100.0] * 3 + [0.0] + [100.0] * 5,
    )
    assert discordant(first, second) == (8, 2)
    # two-sided: 2 * P(at most 2 of 10 fair coins) = 2 * (1 + 10 + 45) / 1024
    assert mcnemar(first, second) == pytest.approx(112 / 1024)
    assert mcnemar([100.0, 0.0], [100.0, 0.0]) == 1.0
    assert mcnemar([100.0] * 6, [0.0] * 6) == pytest.approx(2 / 64)


def test_holm_by_hand() -> None:
    # ordered 0.01 0.03 0.04, times 3 2 1, never falling; a test not run is not counted
    assert holm([0.04, 0.01, np.nan, 0.03]) == pytest.approx(
        [0.06, 0.03, np.nan, 0.06], nan_ok=True
    )
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_permutation_test() -> None:
    # Every sign pattern but two leaves |mean| smaller: p is near 2 / 2^8.
    assert permutation_test([np.ones(8)]) == pytest.approx(2 / 256, abs=0.004)
    assert permutation_test([np.zeros(5)]) == 1.0
    assert permutation_test([np.array([3.0, -3.0, 2.0, -2.0])]) == 1.0
    # In a mean of task means the one example outweighs the eight: no signs fall below |2 - 0.5|.
    assert permutation_test([np.array([4.0]), np.full(8, -1.0)]) == 1.0
    assert permutation_test([np.concatenate([[4.0], np.full(8, -1.0)])]) < 0.7


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        scores = 100.0 * (rng.random(80) < 0.7)
        low, high = bootstrap_ci([scores], resamples=500)
        inside += low <= 70 <= high
    assert 0.90 <= inside / 300 <= 0.985


def test_bootstrap_is_seeded_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [np.arange(50.0), np.arange(20.0) * 5]
    whole = bootstrap_ci(scores)
    assert whole == bootstrap_ci(scores)
    assert bootstrap_ci(scores, seed=1) != whole
    assert whole[0] < 36 < whole[1]
    monkeypatch.setattr("headkv.report.stats.intervals.CHUNK", 1000)
    assert bootstrap_ci(scores) == pytest.approx(whole, abs=1.0)


def test_interval_of_all_hits_is_not_a_point() -> None:
    # Clopper-Pearson: the low end solves p^50 = 0.025.
    assert mean_ci([[100.0] * 50]) == pytest.approx((100 * 0.025 ** (1 / 50), 100.0))
    assert mean_ci([[0.0] * 25, [0.0] * 25]) == pytest.approx((0.0, 100 - 100 * 0.025 ** (1 / 50)))


def test_summary_measures_what_was_kept(results: Path) -> None:
    cells = summarise(load_results(results)).set_index(["method", "kv_size", "task"])
    cell = cells.loc[("snapkv", 128, ALL_TASKS)]
    assert (cell["n"], cell["expected"], cell["kept_tokens"]) == (40, 40, 90 * 128)
    assert cell["cache_mb"] == pytest.approx(256 * 90 * 128 / 1e6)
    assert cell["cache_share"] == pytest.approx(12.8)
    assert cell["ci_low"] <= cell["accuracy"] <= cell["ci_high"]


def test_tasks_weigh_the_same(tmp_path: Path) -> None:
    for task, score, n in (("long", 100.0, 30), ("short", 0.0, 10)):
        rows = [make_row("snapkv", 64, id=str(i), score=score) for i in range(n)]
        write(tmp_path, "snapkv", 64, rows, task=task)
    assert summarise(load_results(tmp_path)).set_index("task")["accuracy"].to_dict() == {
        "long": 100.0, "short": 0.0, ALL_TASKS: 50.0
    }  # fmt: skip


def test_pairs_are_tested_once_and_on_the_same_examples(results: Path) -> None:
    rows = load_results(results)
    tests = paired_tests(rows)
    pairs = tests.groupby("kv_size")[["first", "second"]].apply(lambda p: p.to_numpy().tolist())
    assert pairs[64] == [
        ["headkv_r2", "snapkv"], ["headkv_r2", "adakv"], ["headkv_r2", "streamingllm"],
        ["snapkv", "adakv"], ["snapkv", "streamingllm"], ["adakv", "streamingllm"],
    ]  # fmt: skip
    test = tests.iloc[0]
    at_64 = rows[rows["kv_size"] == 64].pivot(index="id", columns="method", values="score")
    counts = discordant(at_64["headkv_r2"], at_64["snapkv"])
    assert (test["first_better"], test["second_better"]) == counts
    assert test["p"] == mcnemar(at_64["headkv_r2"], at_64["snapkv"])
    assert test["test"] == "McNemar"
    assert test["p_holm"] == pytest.approx(holm(tests[tests["kv_size"] == 64]["p"])[0])


def test_scores_between_hit_and_miss_are_permuted(tmp_path: Path) -> None:
    for method, bonus in (("headkv_r2", 20.0), ("snapkv", 0.0)):
        rows = [
            make_row(method, 64, id=str(i), score=50 * chance(method, i) + bonus) for i in range(30)
        ]
        write(tmp_path, method, 64, rows)
    test = paired_tests(load_results(tmp_path)).iloc[0]
    assert test["test"] == "permutation"
    assert test["p"] < 0.05
    assert test["ci_low"] < test["difference"] < test["ci_high"]


# tables


def test_incomplete_cells_are_counted_not_averaged(results: Path) -> None:
    write(results, "adakv", 128, needle_rows("adakv", 128)[:25])
    rows = load_results(results)
    cells = summarise(rows).set_index(["method", "kv_size", "task"])
    assert np.isnan(cells.loc[("adakv", 128, ALL_TASKS), "accuracy"])
    tests = paired_tests(rows)
    with_adakv = (tests["kv_size"] == 128) & tests[["first", "second"]].eq("adakv").any(axis=1)
    assert tests[with_adakv]["p"].isna().all()
    assert tests[~with_adakv]["p"].notna().all()
    out = io.StringIO()
    print_table(rows, out)
    (line,) = [line for line in out.getvalue().splitlines() if line.startswith("Ada-KV")][:1]
    assert line.count("25/40") == 1
    assert "n/N" in out.getvalue()
    write_tables(rows, results)
    assert "25/40" in (results / "tables/needle_tiny_model.md").read_text()
    assert "25/40" in (results / "tables/needle_tiny_model_tests.tex").read_text()


def test_a_task_never_run_makes_the_mean_incomplete(tmp_path: Path) -> None:
    for method, tasks in (("snapkv", ["a", "b"]), ("adakv", ["a"])):
        for task in tasks:
            write(tmp_path, method, 64, [make_row(method, 64)], benchmark="longbench", task=task)
    write_tables(load_results(tmp_path), tmp_path)
    lines = (tmp_path / "tables/longbench_tiny_model.md").read_text().splitlines()
    ada = [line for line in lines if line.startswith("| Ada-KV")]
    assert ada[0] == "| Ada-KV | 1/2 |"
    assert ada[1] == "| Ada-KV | KV 64 | 1/2 | 1/2 | 1/2 | **100.0 [2.5, 100.0]** | - | 1/2 |"


def test_tables_are_the_same_bytes_whatever_the_order_of_rows(results: Path) -> None:
    first = {path: path.read_bytes() for path in write_tables(load_results(results), results)}
    assert sorted(path.name for path in first) == sorted(
        f"needle_tiny_model{kind}.{form}"
        for kind in ("", "_tests")
        for form in ("csv", "md", "tex")
    )
    for path in results.glob("needle/**/*.jsonl"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    write_tables(load_results(results), results)
    assert {path: path.read_bytes() for path in first} == first
    assert len(list((results / "tables").iterdir())) == 6  # no temporary file is left


def test_csv_holds_the_numbers(results: Path) -> None:
    write_tables(load_results(results), results)
    numbers = pd.read_csv(results / "tables/needle_tiny_model.csv")
    assert len(numbers) == 2 * 13
    assert {"benchmark", "model", "method", "kv_size", "n", "accuracy", "ci_low", "ci_high",
            "kept_tokens", "cache_mb", "cache_share"} <= set(numbers.columns)  # fmt: skip
    tests = pd.read_csv(results / "tables/needle_tiny_model_tests.csv")
    assert len(tests) == 3 * 6
    assert (tests["p_holm"] >= tests["p"]).all()


def test_markdown_and_latex_are_escaped() -> None:
    table = Table("a_b 50% & <0.1", ["m|n", "x_1"], [["[{a}]", "^~\\"], ["p#", "$1"]], note="1*2")
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "### a_b 50% & &lt;0.1"
    assert markdown[2] == r"| m\|n | x_1 |"
    assert markdown[-1] == r"1\*2"
    latex = table.to_latex()
    assert r"\caption{a\_b 50\% \& $<$0.1. 1*2.}" in latex
    assert r"m|n & x\_1 \\" in latex
    assert r"{[}\{a\}{]} & \textasciicircum{}\textasciitilde{}\textbackslash{} \\" in latex
    assert r"p\# & \$1 \\" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1


def test_text_columns_line_up() -> None:
    lines = Table("t", ["Method", "a"], [["x", "100"], ["longer name", "5"]]).to_text().splitlines()
    assert len({len(line) for line in lines[1:]}) == 1


def test_method_names() -> None:
    assert method_name("headkv_r2") == "HeadKV-R2"
    assert method_name("headkv_r2_permuted") == "HeadKV-R2 (permuted)"
    assert method_name("snapkv", "paper", "query_head") == "SnapKV (paper, query head)"
    assert method_name("snapkvx") == "snapkvx"


def test_write_atomic_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomic(tmp_path / "new" / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"old"]


# figures and the command line


def test_figures_are_drawn_and_reproducible(results: Path) -> None:
    assert main(["tables", "figures", str(results)]) == 0
    figures = {p.name: p.read_bytes() for p in (results / "figures").iterdir()}
    assert sorted(figures) == sorted(
        f"needle_tiny_model_{kind}.{form}"
        for kind in ("accuracy", "bytes", "heatmap")
        for form in ("pdf", "png")
    )
    assert all(len(content) > 8000 for content in figures.values())
    assert main(["figures", str(results)]) == 0
    assert {p.name: p.read_bytes() for p in (results / "figures").iterdir()} == figures


def test_figures_of_partial_and_odd_results(tmp_path: Path) -> None:
    write(tmp_path, "snapkv", 64, needle_rows("snapkv", 64))
    write(tmp_path, "adakv", 64, needle_rows("adakv", 64)[:7])
    write(tmp_path, "strange", 128, needle_rows("strange", 128))
    write(tmp_path, "fullkv", None, needle_rows("fullkv", None), benchmark="only_full")
    plain = [make_row("snapkv", 64, score=0.0)]
    write(tmp_path, "snapkv", 64, plain, benchmark="no_depth")
    assert main(["figures", str(tmp_path)]) == 0
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert names == {
        "needle_tiny_model_accuracy",
        "needle_tiny_model_bytes",
        "needle_tiny_model_heatmap",
        "only_full_tiny_model_heatmap",
        "no_depth_tiny_model_accuracy",
        "no_depth_tiny_model_bytes",
    }


def test_partial_results_are_noted_in_the_figures(results: Path) -> None:
    from headkv.report.figures.accuracy import accuracy_figure, bytes_figure

    write(results, "adakv", 128, needle_rows("adakv", 128)[:25])
    rows = load_results(results)
    for draw in (accuracy_figure, bytes_figure):
        texts = " ".join(text.get_text() for text in draw(rows, "title").texts)
        assert "Ada-KV KV 128 (25/40)" in texts.replace("\n", " ")


def test_command_line_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["tables", str(tmp_path)],
        ["figures", str(tmp_path)],
        ["tabels"],
        [],
        ["tables", "a", "b"],
    ):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert not captured.out


def test_command_line_prints_the_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(results), "--benchmark", "needle"]) == 0
    out = capsys.readouterr().out
    assert "HeadKV-R2" in out
    assert "KV 64" in out
    assert "wrote" in out


def test_report_never_imports_a_model_library() -> None:
    for path in Path(headkv.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {name.split(".")[0] for name in names} & {"torch", "transformers"}, path
