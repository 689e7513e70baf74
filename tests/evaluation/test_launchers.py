"""Two shards through Hydra's launchers give the same tables as one process.

submitit's local executor here. A local Ray cluster, in the environment that `make ray` builds:

    HEADKV_RAY=1 .cache/ray-venv/bin/python -m pytest -m slow tests/evaluation/test_launchers.py
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from headkv.config import ROOT
from headkv.results.__main__ import main as results

RAY = ["ray_gpus"] if os.environ.get("HEADKV_RAY") else []
CPU = {
    "local": [],
    "ray_gpus": ["hydra.launcher.ray.remote.num_gpus=0", "+hydra.launcher.ray.init.num_cpus=2"],
}


def needle(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = dict(os.environ)
    if RAY:  # it would leave a token for its cluster in the home folder
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    done = subprocess.run(
        [sys.executable, "run_needle.py", *arguments, f"output_dir={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(needle_grid, needle_script, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "results"
    needle_script(*needle_grid.arguments, f"output_dir={folder}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", *RAY])
def test_two_shards_are_one_run(launcher: str, whole: Path, needle_grid, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    spread = ["-m", f"hydra/launcher={launcher}", *CPU[launcher], "shard=0/2,1/2"]
    needle(folder, *spread, *needle_grid.arguments)
    files = sorted(path.name for path in folder.glob("needle/*/snapkv/48/*.jsonl"))
    assert files == [f"{task}.shard-{i}-of-2.jsonl" for task in ("keyed", "single") for i in (0, 1)]
    assert (
        needle_grid.tables(folder) == needle_grid.tables(whole)
        and len(needle_grid.tables(whole)) > 3
    )
    assert results(["verify", str(folder)]) == 0
    assert results(["merge", str(folder)]) == 0
    assert needle_grid.tables(folder) == needle_grid.tables(whole)
    assert (
        needle_grid.rows_of(folder) == needle_grid.rows_of(whole)
        and len(needle_grid.rows_of(whole)) == needle_grid.rows
    )


def test_a_shard_that_is_none_writes_nothing(needle_script, tmp_path: Path) -> None:
    said = needle_script("shard=2/2", f"output_dir={tmp_path / 'results'}", code=2)
    assert "shard=2/2" in said and said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_dry_run_says_what_is_left_and_writes_nothing(
    needle_grid, needle_script, tmp_path: Path
) -> None:
    few = [*needle_grid.arguments, "method=[fullkv,snapkv]", "kv_size=48", "limit=1"]
    few += [f"output_dir={tmp_path / 'results'}"]
    assert "2 examples x 2 cells, 4 answers to go" in needle_script(*few, "dry_run=true")
    assert not (tmp_path / "results").exists()
    needle_script(*few)
    assert "nothing is left to do" in needle_script(*few, "dry_run=true")
