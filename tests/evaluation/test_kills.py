"""Runs killed at random instants (SIGKILL) and continued: nothing lost, doubled or different.

A few kills of a tiny model here; thirty of the real one, in three parts of three minutes each:

    HEADKV_KILLS=10 HEADKV_KILLS_MODEL=smollm2_135m HEADKV_KILLS_SEED=1 \
        .venv/bin/python -m pytest -m slow -s --timeout=0 tests/evaluation/test_kills.py
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from headkv.results.__main__ import main as results

KILLS = int(os.environ.get("HEADKV_KILLS", "3"))
SEED = int(os.environ.get("HEADKV_KILLS_SEED", "0"))


def run(arguments: list[str]) -> None:
    """A script's run, in a process of its own."""
    from headkv.__main__ import run

    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (the process is about to be killed)
    run("needle", arguments)


def started(folder: Path, arguments: list[str]) -> BaseProcess:
    """A run of the grid; forked from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["headkv.evaluation.job", "headkv.__main__", "headkv.benchmarks.needle"]
    )
    process = context.Process(target=run, args=([*arguments, f"output_dir={folder}"],))
    process.start()
    return process


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("needle/*/*/*/*.jsonl"))


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(
    tmp_path: Path, needle_grid, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed-0"
    began = time.monotonic()
    first = 0.0
    process = started(whole, needle_grid.arguments)
    while process.is_alive():
        first = first or (time.monotonic() - began if size(whole) else 0.0)
        process.join(0.01)
    working = time.monotonic() - began - first
    assert process.exitcode == 0 and len(needle_grid.rows_of(whole)) == needle_grid.rows

    chance = random.Random(SEED)
    kills = amid = grids = 0
    while kills < KILLS:
        process = started(folder, needle_grid.arguments)
        # At any instant, while it starts or works; about half of the kills let some work be done.
        process.join(chance.uniform(0, first + 2 * working / KILLS))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == 0:  # the kill came too late: this grid is done, kill another one
            check(folder, whole, needle_grid)
            grids += 1
            folder = tmp_path / f"killed-{grids}"
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        amid += size(folder) > 0
    process = started(folder, needle_grid.arguments)
    process.join()
    assert process.exitcode == 0
    check(folder, whole, needle_grid)
    with capsys.disabled():
        print(f"\n{kills} kills, {amid} of them with rows written; {grids + 1} grids completed")


def check(killed: Path, whole: Path, needle_grid) -> None:
    """Both hold the same rows, each once, and make the same tables."""
    assert needle_grid.rows_of(killed) == needle_grid.rows_of(whole)
    assert needle_grid.tables(killed) == needle_grid.tables(whole)
    assert results(["verify", str(killed)]) == 0
