"""CONTRIBUTING's recipes, followed to the letter in a copy of the source; README's Python."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")


def recipes() -> dict[str, dict[str, str]]:
    """Files that every recipe says to write: heading -> path -> content."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^##+ ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE):
        blocks = dict(BLOCK.findall(section))
        if blocks:
            found[section.splitlines()[0]] = blocks
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with all recipes followed."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    for name in ("tests", "data", "pyproject.toml", ".cache"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    for files in recipes().values():
        for path, content in files.items():
            assert not (folder / path).exists(), f"{path} is there already"
            (folder / path).write_text(content, encoding="utf-8")
    return folder


def call(copy: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "src"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_recipes_take_as_many_files_as_they_say() -> None:
    assert [len(files) for files in recipes().values()] == [2, 2, 3]


def test_methods_keep_their_contract_and_a_benchmark_runs(copy: Path, tmp_path: Path) -> None:
    """The contract tests find the methods by their yaml alone; the benchmark's rows make a table.

    In one process, which loads torch once.
    """
    contract = copy / "tests" / "methods" / "test_contract.py"
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "early or loud"]
    settings = ["method=[fullkv,loud]", "kv_size=64", "limit=1", "fidelity=false"]
    program = (
        "import pytest, sys\nfrom headkv.__main__ import main\n"
        f"failed = pytest.main({[*plain, str(contract)]!r})\n"
        f"sys.exit(failed or main({['capitals', *settings, f'output_dir={tmp_path}']!r}))"
    )
    said = call(copy, "-c", program)
    assert int(re.findall(r"(\d+) passed", said)[0]) >= 12
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("list*.jsonl"))
    assert [path.split("/")[2] for path in written] == ["fullkv", "loud"]
    assert "Loud" in call(copy, "-m", "headkv.report", "tables", str(tmp_path))


def test_what_recipes_add_passes_the_linter(copy: Path) -> None:
    files = [path for each in recipes().values() for path in each if path.endswith(".py")]
    call(copy, "-m", "ruff", "check", *files)
    call(copy, "-m", "ruff", "format", "--check", *files)


def test_readmes_python_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other, from the root of the checkout."""
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found: dict[str, object] = {}
    exec(compile("".join(blocks), "README.md", "exec"), found)
    assert len(blocks) == 3 and found["cache"].kept_tokens.shape[1:] == (30, 3)
