"""A grid of cells from one prefill, against the same cells each with a prefill of its own.

    make bench          # or: .venv/bin/python -m bench.grid --help

Both ways answer the same question with the same code, in turns, so that whatever else the machine
does meets both alike. Loading the model, which
a process for each cell would repeat too, is left out of both.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from headkv.cli import front_door
from headkv.config import ROOT, compose
from headkv.evaluation.assembly import assemble
from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Runner
from headkv.evaluation.settings import Settings
from headkv.records import Example
from headkv.storage import run_record
from headkv.storage.atomic import write_json

METHODS = ["streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2", "compresskv"]
LIMIT = 20.0  # times faster, at least
TURNS = 3  # of the shared way an example


@dataclass
class Times:
    """Seconds of one example.

    Attributes:
        id: of the example.
        tokens: of its prompt.
        shared: all cells from one prefill, each turn.
        own: each cell with its own prefill.
        equal: answers that are the same both ways.
    """

    id: str
    tokens: int
    shared: list[float] = field(default_factory=list)
    own: dict[str, float] = field(default_factory=dict)
    equal: int = 0

    @property
    def ratio(self) -> float:
        """How many times faster the shared way is."""
        return sum(self.own.values()) / median(self.shared)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2_135m", help="a model of conf/model")
    parser.add_argument("--length", type=int, default=2048, help="tokens of the haystack")
    parser.add_argument("--examples", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--kv-sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench" / "grid.json")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    options = arguments(given)
    torch.set_num_threads(options.threads)
    runner, examples = _prepare(options)
    cells = len(runner.cells)
    _answers(runner, runner.encoder.encode(examples[0]), [0])  # warms up
    with tqdm(total=options.examples * (cells + TURNS), desc="grid", unit="turn") as bar:
        found = [_measure(runner, runner.encoder.encode(example), bar) for example in examples]
    _report(found, cells, options)
    return 0


def _measure(runner: Runner, encoded: EncodedExample, bar: Any) -> Times:
    """One example: all cells together, a third of them alone, and so on."""
    times = Times(encoded.example.id, len(encoded.prompt.input_ids))
    cells = range(len(runner.cells))
    alone: dict[int, list[int]] = {}
    for turn in range(TURNS):
        seconds, together = _answers(runner, encoded, cells)
        times.shared.append(seconds)
        bar.update()
        for cell in cells[turn::TURNS]:
            seconds, answers = _answers(runner, encoded, [cell])
            times.own[_name(runner.cells[cell])] = seconds
            alone |= answers
            bar.update()
    times.equal = sum(alone[cell] == together[cell] for cell in cells)
    return times


def _prepare(options: argparse.Namespace) -> tuple[Runner, list[Example]]:
    """The runner of the grid, and the examples."""
    depths = [round((i + 0.5) / options.examples, 2) for i in range(options.examples)]
    changes = [
        f"model={options.model}",
        f"method=[{','.join(options.methods)}]",
        f"kv_size=[{','.join(map(str, options.kv_sizes))}]",
        "task=single",
        f"benchmark.lengths=[{options.length}]",
        f"benchmark.depths=[{','.join(map(str, depths))}]",
        "benchmark.per_cell=1",
        "fidelity=false",
    ]
    assembly = assemble(Settings.parse(compose("needle", changes)))
    return assembly.runner, assembly.runner.examples(assembly.tasks)


def _answers(
    runner: Runner, encoded: EncodedExample, cells: Sequence[int]
) -> tuple[float, dict[int, list[int]]]:
    """Seconds for these cells from one prefill, and their answers' tokens."""
    began = time.perf_counter()
    batches = runner.scheduler().answers([encoded], list(cells))
    found = {answer.cell: answer.tokens for batch in batches for answer in batch}
    return time.perf_counter() - began, found


def _name(cell: Cell) -> str:
    return f"{cell.name} {cell.method.kv_size or 'full'}"


def _report(found: Sequence[Times], cells: int, options: argparse.Namespace) -> None:
    """Prints and writes what was measured."""
    for times in found:
        spread = f"{min(times.shared):.2f} to {max(times.shared):.2f}"
        print(
            f"{times.id}, {times.tokens} tokens, {cells} cells: {median(times.shared):.2f} s from "
            f"one prefill ({spread}), {sum(times.own.values()):.2f} s with one each: "
            f"{times.ratio:.1f}x; {times.equal} of {cells} answers the same"
        )
    worst = min(times.ratio for times in found)
    verdict = "holds" if worst >= LIMIT else "FAILS"
    print(f"{verdict:12s} grid from one prefill: {worst:.1f} x faster (at least {LIMIT:g} x)")
    record = run_record.describe({**vars(options), "output": str(options.output)})
    record |= {
        "finished": run_record.now(),
        "cells": cells,
        "limit": LIMIT,
        "ratio": worst,
        "examples": [vars(times) | {"ratio": times.ratio} for times in found],
    }
    write_json(options.output, record)
    print(f"written: {options.output}")


if __name__ == "__main__":
    sys.exit(front_door(main))
