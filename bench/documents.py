"""One prefill for all questions of a document, against a prefill for each.

    .venv/bin/python -m bench.documents corpus lengths=4000 task=connectivity_1
    .venv/bin/python -m bench.documents loogle data_dir=DIR task=longdep_qa

Both ways answer the first document's questions with the same code in one process. The slow way is
timed on a few of them, spread evenly; its time for all is their mean times their number.
"""

import argparse
import sys
import time
from collections.abc import Sequence

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
    """Times both ways and prints them; 1 if the shared one is not fast enough or answers differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("settings", nargs="*", help="as the benchmark's script takes them")
    parser.add_argument("--alone", type=int, default=3, help="questions that are asked alone")
    given = parser.parse_args(arguments)
    settings = ["fidelity=false", "method=snapkv", "kv_size=128", *given.settings]
    assembly = assemble(Settings.parse(compose(given.benchmark, settings)))
    runner, cells = assembly.runner, tuple(range(len(assembly.cells)))
    examples = runner.stream(set(runner.asked(assembly.tasks)))
    group = max(by_document((each, cells) for each in examples), key=len)
    tokens = len(runner.encoder.encode(group[0][0]).prompt.input_ids)
    some = group[:: max(len(group) // given.alone, 1)][: given.alone]
    together, shared = answers(runner, group)
    alone, same = 0.0, 0
    for missing in some:
        seconds, found = answers(runner, [missing])
        alone += seconds
        same += sum(shared[key] == tokens for key, tokens in found.items())
    ratio = alone / len(some) * len(group) / together
    print(
        f"{len(group)} questions on one document, prompts of {tokens} tokens, {len(cells)} cells: "
        f"{together:.1f} s with one prefill; {alone / len(some):.1f} s a question alone "
        f"(mean of {len(some)}); {ratio:.1f} times faster, {ratio / len(group):.2f} of the number "
        f"of questions; {same} of {len(some) * len(cells)} answers equal"
    )
    return int(ratio < SHARE * len(group) or same < len(some) * len(cells))


if __name__ == "__main__":
    sys.exit(front_door(main))
