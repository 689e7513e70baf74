"""Another package adds a scorer, an allocator, a method and a benchmark."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headkv.config import ROOT

PLUGIN = Path(__file__).parent / "plugin_toy"
SMALL = ["kv_size=32", "limit=1", "fidelity=false"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed plug-in."""
    place = tmp_path_factory.mktemp("plugin")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(PLUGIN, place / "source", ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", place / "site", place / "source"], check=True)
    return place / "site"


def python(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_python_finds_it(site: Path) -> None:
    program = """
import headkv
from headkv.report.names import display
for group, name in (("method", "toy"), ("scorer", "middle"), ("allocator", "first_layer"),
                    ("benchmark", "colours")):
    assert name in headkv.names(group), group
    assert headkv.load_group(group, name)
method = headkv.build_method("toy", kv_size=32, share=0.25)
assert (method.scorer.window_size, method.allocator.share) == (4, 0.25)
table = method.budgets(3, 6, 2, 1000)
assert int(table.sum()) == 32 * 3 * 2 and table[0, 0] > table[1, 0], table
assert headkv.build_method("snapkv", kv_size=32, scorer="middle").scorer.name == "middle"
assert (display("toy").name, display("toy").colour) == ("Toy", "#123456")
"""
    done = python(site, "-c", program)
    assert done.returncode == 0, done.stderr


def test_without_it_nothing_is_found() -> None:
    program = "import headkv; assert 'toy' not in headkv.names('method')"
    assert python(Path("nowhere"), "-c", program).returncode == 0


def test_scripts_and_commands_run_it(site: Path, tmp_path: Path, needle_grid: Any) -> None:
    """Its method on a benchmark of ours, and its benchmark as a command of its own."""
    lengths = ["benchmark.lengths=[256]", "benchmark.tasks=[single]", "benchmark.depths=1"]
    output = [needle_grid.arguments[-1], f"output_dir={tmp_path}"]
    needle = ["needle", "method=[toy,snapkv]", *SMALL, *lengths, *output]
    colours = ["colours", "scorer=middle", "method=snapkv", "benchmark.sentences=30", *SMALL]
    program = "import sys; from headkv.__main__ import main; "
    program += f"main({needle}); main({[*colours, *output]})"
    done = python(site, "-c", program)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("needle/tiny/toy/32/single.jsonl")
    row = json.loads(path.read_text().splitlines()[0])
    assert row["kept_tokens"] > 0 and row["kv_size"] == 32
    assert list(tmp_path.glob("colours/tiny/snapkv+middle/32/colours.jsonl"))


def test_a_plugin_without_conf_is_one_line(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    shutil.rmtree(broken / "headkv_toy" / "conf")
    done = python(broken, "run_needle.py", "method=snapkv")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "headkv_toy" in done.stderr and "conf" in done.stderr
