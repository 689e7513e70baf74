"""Runs killed at random instants (SIGKILL) and continued: nothing lost, doubled or different.

A few kills of a tiny model here; thirty of the real one, in three parts of three minutes each:

    HEADKV_KILLS=10 HEADKV_KILLS_MODEL=smollm2_135m HEADKV_KILLS_SEED=1 \
        .venv/bin/python -m pytest -m slow -s --timeout=0 tests/test_kills.py
"""

import json
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
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from headkv.config import ROOT
from headkv.models.loading import model_folder
from headkv.models.spec import load_spec
from headkv.report.load import load_results
from headkv.report.tables.results import write_tables
from headkv.results.__main__ import main as results

KILLS = int(os.environ.get("HEADKV_KILLS", "3"))
MODEL = os.environ.get("HEADKV_KILLS_MODEL")
SEED = int(os.environ.get("HEADKV_KILLS_SEED", "0"))
GRID = [
    "benchmark.lengths=[256,300]", "benchmark.depths=3", "benchmark.per_cell=1",
    "method=[fullkv,streamingllm,snapkv,pyramidkv,adakv]", "kv_size=[48,96]",
]  # fmt: skip
ROWS = 12 * 9


def run(arguments: list[str]) -> None:
    """A script's run, in a process of its own."""
    sys.path.insert(0, str(ROOT))
    import run_needle
    from headkv.cli import main
    from headkv.evaluation.job import run_benchmark

    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (the process is about to be killed)
    sys.argv = ["run_needle.py", *arguments]
    main("needle", lambda config: run_benchmark(config, run_needle.needle))


def started(folder: Path, model: str) -> BaseProcess:
    """A run of the grid; forked from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["headkv.evaluation.job", "headkv.cli", "headkv.benchmarks.needle"]
    )
    process = context.Process(target=run, args=([*GRID, model, f"output_dir={folder}"],))
    process.start()
    return process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a model with random weights and the real tokenizer, or of the real model."""
    if MODEL:
        return f"model={MODEL}"
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(model_folder(load_spec("smollm2_135m")))
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"model.path={folder}"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("needle/*/*/*/*.jsonl"))


def tables(folder: Path) -> dict[str, bytes]:
    written = write_tables(load_results(folder), folder)
    return {path.name: path.read_bytes() for path in written}


def rows(folder: Path) -> dict[tuple[str, str], dict[str, object]]:
    """Every row without its times; two of one example under one cell are an error."""
    found: dict[tuple[str, str], dict[str, object]] = {}
    for path in sorted(folder.glob("needle/*/*/*/*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            key = str(path.relative_to(folder)), row["id"]
            assert key not in found
            del row["seconds"]
            found[key] = row
    return found


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed-0"
    began = time.monotonic()
    first = 0.0
    process = started(whole, model)
    while process.is_alive():
        first = first or (time.monotonic() - began if size(whole) else 0.0)
        process.join(0.01)
    working = time.monotonic() - began - first
    assert process.exitcode == 0 and len(rows(whole)) == ROWS

    chance = random.Random(SEED)
    kills = amid = grids = 0
    while kills < KILLS:
        process = started(folder, model)
        # At any instant, while it starts or works; about half of the kills let some work be done.
        process.join(chance.uniform(0, first + 2 * working / KILLS))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == 0:  # the kill came too late: this grid is done, kill another one
            check(folder, whole)
            grids += 1
            folder = tmp_path / f"killed-{grids}"
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        amid += size(folder) > 0
    process = started(folder, model)
    process.join()
    assert process.exitcode == 0
    check(folder, whole)
    with capsys.disabled():
        print(f"\n{kills} kills, {amid} of them with rows written; {grids + 1} grids completed")


def check(killed: Path, whole: Path) -> None:
    """Both hold the same rows, each once, and make the same tables."""
    assert rows(killed) == rows(whole)
    assert tables(killed) == tables(whole)
    assert results(["verify", str(killed)]) == 0
