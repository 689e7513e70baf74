"""Tables beyond means: marks, published figures, lengths, protocols, fidelity, failures."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headkv.report.__main__ import main
from headkv.report.groups import by_model
from headkv.report.load import load_results
from headkv.report.published import LONGBENCH, LOOGLE, headkv_table1
from headkv.report.stats.best import marked
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.summary import ALL_TASKS, summarise
from headkv.report.tables.results import write_tables
from headkv.report.tables.table import MarkedTable


def row(id: object, score: float, size: int | None = 64, **changes: Any) -> dict[str, Any]:
    kept = 900 if size is None else size
    return {
        "id": str(id), "score": score, "scores": {"qa_f1": score}, "prompt_tokens": 1000,
        "kv_size": size, "kept_tokens": kept, "cache_bytes": 2 * kept, "full_cache_bytes": 1800,
        "protocol": "corrected", "granularity": "kv_head", "compress_on": "prompt",
        "run_key": f"a-{id}",
    } | changes  # fmt: skip


def put(root: Path, cell: str, rows: list[dict[str, Any]]) -> Path:
    """Writes rows to `<benchmark>/<method>/<size>/<task>`."""
    benchmark, method, size, task = cell.split("/")
    path = root / benchmark / "llama3_8b" / method / size / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    return path


def read(root: Path, name: str) -> str:
    return (root / "tables" / name).read_text()


def test_best_and_not_worse_are_marked(tmp_path: Path) -> None:
    hits = {"headkv_r2": 20, "snapkv": 18, "adakv": 2}
    for method, n in hits.items():
        put(tmp_path, f"needle/{method}/64/single", [row(i, 100.0 * (i < n)) for i in range(20)])
    put(tmp_path, "needle/fullkv/full/single", [row(i, 100.0, None) for i in range(20)])
    rows = load_results(tmp_path)
    cells = marked(rows, summarise(rows)).set_index(["method", "task"])
    marks = {method: cells.loc[(method, ALL_TASKS), "mark"] for method in [*hits, "fullkv"]}
    assert marks == {"headkv_r2": "best", "snapkv": "not worse", "adakv": "", "fullkv": ""}
    # McNemar 2 of 2: p = 0.5; 18 of 18: 2^-17, times two tests
    assert cells.loc[("snapkv", ALL_TASKS), "p_best"] == pytest.approx(0.5)
    assert cells.loc[("adakv", ALL_TASKS), "p_best"] == pytest.approx(2 * 2**-17)
    write_tables(rows, tmp_path)
    assert "**100.0 [83.2, 100.0]**" in read(tmp_path, "needle_llama3_8b.md")
    assert r"\textbf{100.0 {[}83.2, 100.0{]}}" in read(tmp_path, "needle_llama3_8b.tex")
    assert "Bold: the best" in read(tmp_path, "needle_llama3_8b.md")


def test_published_figures_stand_beside_measured_ones(tmp_path: Path) -> None:
    for benchmark, tasks in (("longbench", LONGBENCH), ("loogle", LOOGLE)):
        for task in tasks:
            put(tmp_path, f"{benchmark}/snapkv/128/{task}", [row(i, 30.0, 128) for i in range(3)])
    put(tmp_path, "longbench/adakv/128/qasper", [row(i, 30.0, 128) for i in range(2)])
    put(tmp_path, "longbench/snapkv/128/trec", [row(i, 0.0, 128) for i in range(3)])
    write_tables(load_results(tmp_path), tmp_path)
    numbers = pd.read_csv(tmp_path / "tables/table1_llama3_8b.csv")
    numbers = numbers.set_index(["benchmark", "method", "task"])
    line = numbers.loc[("longbench", "snapkv", "qasper")]
    assert (line["published"], line["difference"]) == (15.79, pytest.approx(14.21))
    assert numbers.loc[("longbench", "snapkv", "all"), "published"] == 26.43  # without trec
    assert numbers.loc[("loogle", "snapkv", "all"), "published"] == 6.29
    assert pd.isna(numbers.loc[("longbench", "adakv", "qasper"), "difference"])
    lines = read(tmp_path, "table1_llama3_8b.md").splitlines()
    ada, snap = (next(i for i, line in enumerate(lines) if line.startswith(f"| {name}"))
                 for name in ("Ada-KV", "SnapKV"))  # fmt: skip
    assert "2/3" in lines[ada]
    assert "22.11 | 15.79" in lines[snap + 1]
    assert "+7.89 | +14.21" in lines[snap + 2]


def test_published_averages_are_those_of_their_tasks() -> None:
    for model in ("llama3_8b", "mistral_7b_v02"):
        table = headkv_table1(model).assign(kv_size=lambda t: t["kv_size"].fillna(0))
        wide = table.pivot(index=["method", "kv_size"], columns="task", values="score")
        assert len(wide) == 11
        for tasks, average in ((LONGBENCH, "longbench_avg"), (LOOGLE, "loogle_avg")):
            assert (wide[list(tasks)].mean(axis=1) - wide[average]).abs().max() < 0.011
    assert headkv_table1("smollm2_135m").empty


def test_lengths_by_tasks(tmp_path: Path) -> None:
    scores = {"qa1_1k": 100.0, "qa1_16k": 0.0, "qa2_1k": 50.0, "qa2_16k": 50.0}
    for task, score in scores.items():
        put(tmp_path, f"babilong/snapkv/64/{task}", [row(i, score) for i in range(2)])
    write_tables(load_results(tmp_path), tmp_path)
    body = [
        line.split(" | ")[5:]
        for line in read(tmp_path, "babilong_llama3_8b_lengths.md").splitlines()
        if "SnapKV" in line
    ]
    assert [cells[:3] for cells in body] == [
        ["1k", "100.0", "50.0"], ["16k", "0.0", "50.0"], ["all", "50.0", "50.0"]
    ]  # fmt: skip


def test_longbench_e_is_apart_and_in_buckets(tmp_path: Path) -> None:
    put(tmp_path, "longbench/snapkv/64/qasper", [row(0, 10.0), row(1, 20.0)])
    buckets = [row(0, 80.0, bucket="0-4k"), row(1, 90.0, bucket="8k+")]
    put(tmp_path, "longbench/snapkv/64/qasper_e", buckets)
    rows = load_results(tmp_path)
    assert {key[0]: len(part) for key, part in by_model(rows)} == {"longbench": 2, "longbench_e": 2}
    write_tables(rows, tmp_path)
    assert "| 8k+ | 90.0 |" in read(tmp_path, "longbench_e_llama3_8b_lengths.md")


def test_clozes_weigh_as_many_blanks_as_they_have(tmp_path: Path) -> None:
    for method, scores in (("snapkv", (100.0, 0.0)), ("headkv_r2", (0.0, 100.0))):
        rows = [row(0, scores[0], blanks=3), row(1, scores[1], blanks=1)]
        put(tmp_path, f"loogle/{method}/64/shortdep_cloze", rows)
    rows = load_results(tmp_path)
    cells = summarise(rows).set_index(["method", "task"])
    assert cells.loc[("snapkv", "shortdep_cloze"), "accuracy"] == 75.0
    assert paired_tests(rows).iloc[0][["difference", "test"]].tolist() == [-50.0, "permutation"]


def test_context_rows_never_mix_with_prompt_rows(tmp_path: Path) -> None:
    put(tmp_path, "needle/snapkv/64/single", [row(0, 100.0)])
    context = [row(0, 0.0, compress_on="context")]
    put(tmp_path, "needle/snapkv/64/single@corrected-kv_head-context", context)
    means = {key: part["score"].tolist() for key, part in by_model(load_results(tmp_path))}
    assert means == {
        ("needle", "llama3_8b"): [100.0], ("needle", "llama3_8b@context"): [0.0]
    }  # fmt: skip


def test_protocols_side_by_side(tmp_path: Path) -> None:
    old = {"protocol": "paper", "granularity": "query_head"}
    put(tmp_path, "longbench/snapkv/64/qasper", [row(i, 60.0 + i) for i in range(4)])
    before = [row(i, 50.0 + i, **old) for i in range(4)]
    put(tmp_path, "longbench/snapkv/64/qasper@paper-query_head", before)
    write_tables(load_results(tmp_path), tmp_path)
    line = pd.read_csv(tmp_path / "tables/longbench_llama3_8b_protocols.csv").iloc[0]
    assert line[["paper", "corrected", "difference", "n"]].tolist() == [51.5, 61.5, 10.0, 4]


def test_fidelity(tmp_path: Path) -> None:
    def measured(kl: float | None) -> dict[str, Any]:
        return {"reference_logprob": -2.0, "reference_logprob_full": -1.5, "kl": kl,
                "agreement": None if kl is None else 0.5}  # fmt: skip

    rows = [row(i, 0.0, fidelity=measured(kl)) for i, kl in enumerate((0.1, 0.3, None))]
    put(tmp_path, "needle/snapkv/64/single", rows)
    put(tmp_path, "needle/adakv/64/single", [*rows[:1], row(1, 0.0), row(2, 0.0)])
    write_tables(load_results(tmp_path), tmp_path)
    text = read(tmp_path, "needle_llama3_8b_fidelity.md")
    assert "| SnapKV | KV 64 | 3 | -0.500 [-0.500, -0.500] | 0.200 [" in text
    assert "| Ada-KV | KV 64 | 1/3 | - | - | - |" in text


def test_failures_are_told_apart_from_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {"id": "1", "error": "out of memory", "run_key": "a-1"}
    again = {"id": "0", "error": "out of memory", "run_key": "a-0"}
    put(tmp_path, "needle/snapkv/64/single", [again, row(0, 100.0), failure])
    write_tables(load_results(tmp_path), tmp_path)
    assert "1 examples failed, the first with: out of memory" in capsys.readouterr().err
    assert "| SnapKV | 1/2 (1 failed) |" in read(tmp_path, "needle_llama3_8b.md")


def test_shards_are_read_with_the_merged_file(tmp_path: Path) -> None:
    put(tmp_path, "needle/snapkv/64/single", [row(0, 1.0), row(1, 1.0)])
    put(tmp_path, "needle/snapkv/64/single.shard-0-of-2", [row(1, 1.0), row(2, 1.0)])
    rows = load_results(tmp_path)
    assert rows["id"].tolist() == ["0", "1", "2"]
    assert set(rows["task"]) == {"single"}


def test_sample_stands_in_for_missing_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tables"]) == 2
    put(tmp_path / "results/sample", "needle/snapkv/64/single", [row(0, 1.0)])
    capsys.readouterr()
    assert main(["tables"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("no results of yours in results")
    assert (tmp_path / "results/sample/tables/needle_llama3_8b.md").exists()
    put(tmp_path / "results", "needle/adakv/64/single", [row(0, 1.0)])
    put(tmp_path / "results", "beta/adakv/64/single", [row(0, 1.0)])
    assert main(["tables"]) == 0
    made = sorted(path.name for path in (tmp_path / "results/tables").glob("*.md"))
    assert made == ["needle_llama3_8b.md", "needle_llama3_8b_tests.md"]


def test_bold_and_wide_tables_are_balanced_latex() -> None:
    header = ["a_b", *"12345678"]
    table = MarkedTable("t#1", header, [["<x&y", *"12345678"]] * 2, "50%",
                        frozenset({(1, 0)}), frozenset({0, 1}), "best_one.")  # fmt: skip
    latex = table.to_latex()
    assert r"\caption{t\#1. Bold: best\_one. 50\%.}" in latex
    assert r"\textbf{$<$x\&y} & 1" in latex
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2
    assert latex.count(r"\midrule") == 2
    assert table.to_markdown().count("**") == 2
    assert "&lt;x&y*" not in table.to_text()
