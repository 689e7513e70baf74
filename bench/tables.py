"""Seconds and memory of the tables and the page of a large results folder, made up on the spot.

    make bench          # or: .venv/bin/python -m bench.tables --help

Each command runs in a process of its own, as a user types it, so that reading the rows and the
peak of its memory are its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headkv.config import ROOT
from headkv.storage import run_record
from headkv.storage.atomic import write_json

METHODS = ["streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2", "compresskv"]
TASKS = ["single", "keyed", "qasper", "hotpotqa", "gov_report"]  # two of hits, three of shares
SECONDS, MEGABYTES = 30, 1000  # limits of tables and page together, and of each one's memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what each command took.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code: 1 where a limit is passed.
    """
    parser = argparse.ArgumentParser(prog="bench.tables", description=__doc__)
    parser.add_argument("--sizes", type=int, default=7, help="KV sizes of seven methods each")
    parser.add_argument("--examples", type=int, default=1000, help="examples of five tasks each")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench" / "report.json")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cells = make_rows(Path(folder), given.sizes, given.examples)
        found = {words: _measured(words, folder) for words in ("tables", "html", "tables html")}
    rows = given.examples * len(TASKS)
    print(f"{cells} cells x {rows} rows")
    for words, (seconds, megabytes) in found.items():
        print(f"  {words:12} {seconds:6.1f} s  {megabytes:6.0f} MB at its peak")
    record = {"cells": cells, "rows_of_a_cell": rows}
    record |= {words: {"seconds": s, "peak_mb": mb} for words, (s, mb) in found.items()}
    write_json(given.out, {**run_record.describe(record), "measured": record})
    seconds, megabytes = found["tables html"]
    return int(cells * rows >= 250_000 and (seconds > SECONDS or megabytes > MEGABYTES))


def make_rows(root: Path, sizes: int, examples: int) -> int:
    """Writes rows as runs write them; returns how many cells there are."""
    cells: list[tuple[str, int | None]] = [("fullkv", None)]
    cells += [(method, 32 << place) for method in METHODS for place in range(sizes)]
    for number, (method, size) in enumerate(cells):
        for task in TASKS:
            draw = random.Random(f"{number} {task}")
            folder = root / "longbench" / "made_up" / method / str(size or "full")
            folder.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(_row(draw, task, size, i, number)) for i in range(examples)]
            (folder / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return len(cells)


def _row(draw: random.Random, task: str, size: int | None, i: int, cell: int) -> dict[str, Any]:
    hit = task in ("single", "keyed")
    score = 100.0 * (draw.random() < 0.5) if hit else round(100 * draw.random() ** 2, 2)
    kept = 90 * (size or 4000)
    return {
        "id": f"{task}-{i:05}",
        "prediction": "word " * draw.randint(3, 20),
        "answers": ["the reference answer"],
        "score": score,
        "scores": {"contains" if hit else "qa_f1": score, "rouge1_f": round(score / 2, 2)},
        "prompt_tokens": 4000 + i,
        "new_tokens": 20,
        "kv_size": size,
        "kept_tokens": kept,
        "cache_bytes": 512 * kept,
        "full_cache_bytes": 512 * 90 * 4000,
        "protocol": "corrected",
        "granularity": "kv_head",
        "compress_on": "prompt",
        "seconds": {"prefill": 1.5, "compress": 0.1, "decode": 0.4, "fidelity": 0.2},
        "run_key": f"{cell:012x}-{i:08x}",
        "context_tokens": 4000 + i,
        "stored_heads": 90,
        "chat_template": True,
        "end_tokens": [2],
        "fidelity": {
            "reference_logprob": round(-2 - draw.random(), 5),
            "reference_logprob_full": -1.5,
            "kl": round(draw.random(), 5),
            "agreement": round(draw.random(), 5),
        },
        "truncated": False,
    }


def _measured(words: str, folder: str) -> tuple[float, float]:
    """Seconds and peak megabytes of `headkv report WORDS FOLDER`."""
    command = [sys.executable, "-m", "headkv", "report", *words.split(), folder]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return round(time.perf_counter() - start, 2), round(usage.ru_maxrss / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
