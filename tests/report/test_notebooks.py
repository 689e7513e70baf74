"""Every notebook runs from start to end on the sample results, and is committed without outputs."""

import ast
import re
import runpy
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import pytest

from headkv.config import ROOT
from headkv.errors import UserError

RUN = runpy.run_path(str(ROOT / "notebooks" / "run.py"))
NOTEBOOKS = RUN["notebooks"]()
PUBLIC = {"headkv", "headkv.report", "headkv.report.heads"}
SHOWS = {
    "01_results": ["image/png", "95% CI", "SnapKV", "% of full", "paired tests"],
    "02_head_scores": ["image/png", "retrieval_reasoning", "richest"],
    "03_one_example": ["image/png", "HeadKV-R2", "holds the code", "dropped", "% of full"],
    "04_your_own_method": ["MiddleKV", "SnapKV", "tokens of a head"],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The sample, away from whatever else lies in `results/`."""
    return Path(shutil.copytree(ROOT / "results" / "sample", tmp_path / "results"))


def outputs(notebook: Any) -> list[Any]:
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def shown(notebook: Any) -> str:
    """Everything a reader sees of the outputs, and the kinds of what is no text."""
    texts = []
    for out in outputs(notebook):
        texts += [out.get("text", ""), *out.get("data", {})]
        texts += [value for kind, value in out.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def test_every_notebook_is_known() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWS)


def test_all_run(results: Path, tmp_path: Path) -> None:
    """One kernel for all, whose names are gone between two of them: it loads torch once."""
    chapters = [nbformat.read(path, as_version=4).cells for path in NOTEBOOKS]
    whole, copy = tmp_path / "whole.ipynb", tmp_path / "copy.ipynb"
    reset = [nbformat.v4.new_code_cell("%reset -f")]
    joined = nbformat.v4.new_notebook(cells=[cell for each in chapters for cell in each + reset])
    nbformat.write(joined, whole)
    before = whole.read_bytes()
    executed = RUN["execute"](whole, results, copy)
    assert whole.read_bytes() == before
    assert outputs(nbformat.read(copy, as_version=4)) == outputs(executed)
    for path, chapter in zip(NOTEBOOKS, chapters, strict=True):
        own = nbformat.v4.new_notebook(cells=executed.cells[: len(chapter)])
        del executed.cells[: len(chapter) + 1]
        text = shown(own)
        assert [wanted for wanted in SHOWS[path.stem] if wanted not in text] == []
        # A warning in a notebook is the first thing a reader sees.
        assert [out.text for out in outputs(own) if out.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert cell.source.strip()


def test_a_failing_cell_is_told(tmp_path: Path, results: Path) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        RUN["execute"](tmp_path / "broken.ipynb", results, tmp_path / "copy.ipynb")
    assert re.search("ZeroDivisionError", (tmp_path / "copy.ipynb").read_text())


def test_no_results_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results in"):
        RUN["main"]([str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_public_names_only(path: Path) -> None:
    """What a notebook needs, a reader's own code may use."""
    code = "\n".join(
        re.sub(r"^%.*", "", cell.source, flags=re.MULTILINE)
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    )
    public = {name: import_module(name).__all__ for name in PUBLIC}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("headkv"):
            assert node.module in PUBLIC
            for alias in node.names:
                assert f"{node.module}.{alias.name}" in PUBLIC or alias.name in public[node.module]
        elif isinstance(node, ast.Import):
            headkv = [alias.name for alias in node.names if alias.name.startswith("headkv")]
            assert set(headkv) <= {"headkv"}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "headkv":
            assert node.attr in public["headkv"]
