"""The command line of the report, and what it never imports."""

import ast
from pathlib import Path

import pytest

import headkv.report
from headkv.report.__main__ import main
from headkv.report.figures.accuracy import accuracy_figure, bytes_figure
from headkv.report.load import load_results


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


def test_sample_stands_in_for_missing_results(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    qa_row,
    put_rows,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tables"]) == 2
    put_rows(tmp_path / "results/sample", "needle/snapkv/64/single", [qa_row(0, 1.0)])
    capsys.readouterr()
    assert main(["tables"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("no results of yours in results")
    assert (tmp_path / "results/sample/tables/needle_llama3_8b.md").exists()
    put_rows(tmp_path / "results", "needle/adakv/64/single", [qa_row(0, 1.0)])
    put_rows(tmp_path / "results", "beta/adakv/64/single", [qa_row(0, 1.0)])
    assert main(["tables"]) == 0
    made = sorted(path.name for path in (tmp_path / "results/tables").glob("*.md"))
    assert made == ["needle_llama3_8b.md", "needle_llama3_8b_tests.md"]


def test_report_never_imports_a_model_library() -> None:
    for path in Path(headkv.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {name.split(".")[0] for name in names} & {"torch", "transformers"}, path


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


def test_figures_of_partial_and_odd_results(
    tmp_path: Path, make_row, needle_rows, write_rows
) -> None:
    write_rows(tmp_path, "snapkv", 64, needle_rows("snapkv", 64))
    write_rows(tmp_path, "adakv", 64, needle_rows("adakv", 64)[:7])
    write_rows(tmp_path, "strange", 128, needle_rows("strange", 128))
    write_rows(tmp_path, "fullkv", None, needle_rows("fullkv", None), benchmark="only_full")
    plain = [make_row("snapkv", 64, score=0.0)]
    write_rows(tmp_path, "snapkv", 64, plain, benchmark="no_depth")
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


def test_partial_results_are_noted_in_the_figures(results: Path, needle_rows, write_rows) -> None:

    write_rows(results, "adakv", 128, needle_rows("adakv", 128)[:25])
    rows = load_results(results)
    for draw in (accuracy_figure, bytes_figure):
        texts = " ".join(text.get_text() for text in draw(rows, "title").texts)
        assert "Ada-KV KV 128 (25/40)" in texts.replace("\n", " ")
