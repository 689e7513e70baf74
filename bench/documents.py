"""One prefill for all questions of a document, against a prefill for each.

    make bench          # or: .venv/bin/python -m bench.documents --help
    .venv/bin/python -m bench.documents loogle data_dir=DIR task=longdep_qa

Both ways answer the first document's questions with the same code in one process. The slow way is
timed on a few of them, spread evenly; its time for all is their mean times their number.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from bench.record import conclude, least
from headkv.cli import front_door
from headkv.config import compose
from headkv.evaluation.answers import Answer
from headkv.evaluation.assembly import assemble
from headkv.evaluation.documents import by_document
from headkv.evaluation.plan import Missing
from headkv.evaluation.runner import Runner
from headkv.evaluation.settings import Settings

SHARE = 0.7  # of the number of questions that the ratio has to reach


def answers(runner: Runner, work: Sequence[Missing]) -> tuple[float, dict[object, list[int]]]:
    """Answers some questions; returns the seconds and the tokens of every answer."""
    found: dict[object, list[int]] = {}

    def write(some: list[Answer]) -> None:
        found.update({(each.encoded.example.id, each.cell): each.tokens for each in some})

    began = time.perf_counter()
    runner.scheduler().run(work, write, lambda *failed: None, lambda count: None)
    return time.perf_counter() - began, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("benchmark", nargs="?", default="corpus")
    parser.add_argument("settings", nargs="*", help="as the benchmark's script takes them")
    parser.add_argument("--alone", type=int, default=2, help="questions that are asked alone")
    given = parser.parse_args(arguments)
    if given.benchmark == "corpus" and not given.settings:
        given.settings = ["lengths=4000", "task=connectivity_1"]
    settings = ["fidelity=false", "method=snapkv", "kv_size=128", *given.settings]
    assembly = assemble(Settings.parse(compose(given.benchmark, settings)))
    runner, every = assembly.runner, tuple(range(len(assembly.cells)))
    examples = runner.stream(set(runner.asked(assembly.tasks)))
    group = max(by_document((each, every) for each in examples), key=len)
    tokens = len(runner.encoder.encode(group[0][0]).prompt.input_ids)
    some = group[:: max(len(group) // given.alone, 1)][: given.alone]
    together, shared = answers(runner, group)
    alone, same = 0.0, 0
    for missing in some:
        seconds, found = answers(runner, [missing])
        alone += seconds
        same += sum(shared[key] == tokens for key, tokens in found.items())
    ratio = alone / len(some) * len(group) / together
    questions, cells = len(group), len(assembly.cells)
    figures = {
        "questions": questions,
        "tokens": tokens,
        "cells": cells,
        "together_s": together,
        "a_question_alone_s": alone / len(some),
        "ratio": ratio,
        "equal": same,
        "compared": len(some) * cells,
    }
    print(figures)
    checks = [
        least(f"{questions} questions on one document, faster", ratio, SHARE * questions),
        least("answers equal, of those compared", same / (len(some) * cells), 1),
    ]
    return conclude("documents", figures, checks, vars(given))


if __name__ == "__main__":
    sys.exit(front_door(main))
