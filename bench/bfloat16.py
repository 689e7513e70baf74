"""float32 against `model.dtype=bfloat16`: seconds, answers and fidelity on needle examples.

    make bench          # or: .venv/bin/python -m bench.bfloat16 --help

Both models answer the same examples in turns, in one process.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import mean

import torch
from tqdm import tqdm

from bench.record import conclude, least
from headkv.cli import front_door
from headkv.config import compose
from headkv.evaluation.answers import Answer
from headkv.evaluation.assembly import assemble
from headkv.evaluation.runner import Runner
from headkv.evaluation.settings import Settings
from headkv.records import Example

DTYPES = ("float32", "bfloat16")


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--length", type=int, default=1024, help="tokens of the haystack")
    parser.add_argument("--methods", nargs="+", default=["fullkv", "snapkv", "headkv_r2"])
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    changes = [
        f"method=[{','.join(options.methods)}]",
        "kv_size=128",
        f"benchmark.lengths=[{options.length}]",
    ]
    made = {d: _runner([*changes, f"model.dtype={d}"]) for d in DTYPES}
    cells = made["float32"][0].cells
    step = max(len(made["float32"][1]) // options.examples, 1)
    seconds = {dtype: Counter[str]() for dtype in DTYPES}
    found: dict[str, list[Answer]] = {dtype: [] for dtype in DTYPES}
    scores: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    pairs = list(zip(*(examples for _, examples in made.values()), strict=True))
    for pair in tqdm(pairs[::step][: options.examples], desc="bfloat16", unit="example"):
        for (dtype, (runner, _)), example in zip(made.items(), pair, strict=True):
            for answer in _answers(runner, example):
                for name, spent in answer.seconds.items():
                    seconds[dtype][name] += spent / (len(cells) if name == "prefill" else 1)
                found[dtype].append(answer)
                text = runner.loaded.tokenizer.decode(answer.tokens)
                scores[dtype].append(float(any(a in text for a in example.answers)))
    both = list(zip(*found.values(), strict=True))
    figures = {
        "answers": len(both),
        "equal": sum(one.tokens == other.tokens for one, other in both),
        "correct": {dtype: sum(scores[dtype]) for dtype in DTYPES},
        "fidelity": {
            name: {d: _mean(found[d], name) for d in DTYPES}
            for name in ("reference_logprob", "reference_logprob_full", "kl", "agreement")
        },
        "seconds": {dtype: dict(spent) for dtype, spent in seconds.items()},
        "faster": {
            name: seconds["float32"][name] / spent for name, spent in seconds["bfloat16"].items()
        },
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    whole = seconds["float32"].total() / seconds["bfloat16"].total()
    checks = [least("bfloat16 faster than float32, all steps", whole, 1)]
    return conclude("bfloat16", figures, checks, vars(options))


def _runner(changes: Sequence[str]) -> tuple[Runner, list[Example]]:
    assembly = assemble(Settings.parse(compose("needle", list(changes))))
    return assembly.runner, assembly.runner.examples(assembly.tasks)


def _answers(runner: Runner, example: Example) -> list[Answer]:
    """Under every cell, in their order."""
    batches = runner.scheduler().answers([runner.encoder.encode(example)], range(len(runner.cells)))
    return sorted((each for batch in batches for each in batch), key=lambda each: each.cell)


def _mean(answers: Sequence[Answer], name: str) -> float:
    """Of a measure over compressed caches, where it was measured."""
    some = (each for each in answers if each.cache_bytes < each.full_cache_bytes)
    values = [each.fidelity[name] for each in some if each.fidelity is not None]
    return mean(value for value in values if value is not None)


if __name__ == "__main__":
    sys.exit(front_door(main))
