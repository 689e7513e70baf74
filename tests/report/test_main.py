"""The command line of the report, and what it never imports."""

import ast
from pathlib import Path

import pytest

import headkv.report
from headkv.errors import UserError
from headkv.report.__main__ import main


@pytest.mark.parametrize(
    "words", [["tables"], ["figures"], ["html"], ["sanity"], ["tabels"], [], ["tables", "a", "b"]]
)
def test_mistakes_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="allowed: "):
        main(words)
    assert not list(tmp_path.iterdir())


def test_command_line_prints_the_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", str(results), "--benchmark", "needle"]) == 0
    out = capsys.readouterr().out
    assert "HeadKV-R2" in out
    assert "KV 64" in out
    assert "wrote" in out


def test_sample_stands_in_for_missing_results(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    qa_row,
    put_rows,
) -> None:
    monkeypatch.chdir(tmp_path)
    put_rows(tmp_path / "results/sample", "needle/snapkv/64/single", [qa_row(0, 1.0)])
    assert main(["tables"]) == 0
    assert caplog.messages[0].startswith("no results of yours in results")
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
