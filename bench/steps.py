"""One token of one and of many sequences, eager and compiled, against `DynamicCache`.

    make bench          # or: .venv/bin/python -m bench.steps --help

All caches hold as many tokens a head on average, of one prompt, repeated for the batch; they take
turns, step by step, in one process. `as before` attends a batch one sequence after the other, which
is what this package did before its batched CPU kernels. Compiling takes a minute or two.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import DynamicCache

import headkv
from bench.record import conclude, in_turns, least, most, ratio
from bench.sides import method_of
from headkv.cli import front_door
from headkv.efficiency.workload import real_workload
from headkv.generation.prefill import Prefilled
from headkv.models.spec import load_spec

METHODS = ("snapkv", "headkv_r2")
BATCHES = (1, 4, 16)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--length", type=int, default=1024, help="tokens of the prompt")
    parser.add_argument("--kv-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24, help="of each cache")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    workload = real_workload(load_spec("smollm2_135m"), None, options.length + 99)
    model, plain = workload.model, with_sdpa(workload.model)
    methods = {name: method_of(name, workload, options.kv_size) for name in METHODS}
    ids = workload.ids(options.length)
    prefilled = headkv.prefill(model, {"input_ids": ids}, methods=list(methods.values()))
    figures: dict[str, Any] = {}
    checks = []
    for rows in BATCHES:
        ways = {"dynamic_cache": _stepper(plain.forward, _dynamic(plain, ids, options, rows), rows)}
        for name, method in methods.items():
            ways[name] = _stepper(model.forward, _cache(prefilled, method, rows), rows)
            if rows > 1:
                slow = _stepper(model.forward, _cache(prefilled, method, rows), rows)
                ways[f"{name} as before"] = _one_by_one(slow)
        seconds = in_turns(ways, options.steps, warm=3)
        for name, spent in seconds.items():
            figures[f"{rows} x {name}"] = {
                "ms": 1000 * median(spent),
                "of_dynamic": ratio(spent, seconds["dynamic_cache"]),
            }
        for name in METHODS:
            of_dynamic = ratio(seconds[name], seconds["dynamic_cache"])
            checks.append(
                most(f"{name}, {rows} rows, a step against DynamicCache's", of_dynamic, 1.01)
            )
            if rows > 1:
                gain = ratio(seconds[f"{name} as before"], seconds[name])
                checks.append(least(f"{name}, {rows} rows, faster than one by one", gain, 1.5))
    if not options.no_compile:
        figures["compiled"], gain = _compiled(model, prefilled, methods["headkv_r2"], options.steps)
        checks.append(least("headkv_r2, a compiled step faster than an eager one", gain, 1))
    for name, row in figures.items():
        print(f"{name:32s} {row}")
    return conclude("steps", figures, checks, vars(options))


def _compiled(
    model: Any, prefilled: Prefilled, method: headkv.Method, steps: int
) -> tuple[dict[str, float], float]:
    """A step under `torch.compile(fullgraph=True)`, a frozen one and an eager one."""
    usual, frozen, fast = (_cache(prefilled, method, 1) for _ in range(3))
    for cache in (frozen, fast):
        cache.freeze(steps + 8)
    compiled = torch.compile(model.forward, fullgraph=True)
    ways = {
        "eager": _stepper(model.forward, usual, 1),
        "frozen": _stepper(model.forward, frozen, 1),
        "compiled": _stepper(compiled, fast, 1),
    }
    began = time.perf_counter()
    ways["compiled"]()
    first = time.perf_counter() - began
    seconds = in_turns(ways, steps, warm=2)
    found = {f"{name}_ms": 1000 * median(spent) for name, spent in seconds.items()}
    gain = ratio(seconds["eager"], seconds["compiled"])
    return {"first_s": first, "gain": gain, **found}, gain


def with_sdpa(model: Any) -> Any:
    """The same weights in a module tree of its own, which attends with SDPA."""
    other = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    other.set_attn_implementation("sdpa")
    return other


def _dynamic(model: Any, ids: Tensor, options: argparse.Namespace, rows: int) -> DynamicCache:
    """transformers' own cache of as many tokens."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, : options.kv_size].repeat(rows, 1), past_key_values=cache, logits_to_keep=1)
    return cache


def _cache(prefilled: Prefilled, method: headkv.Method, rows: int) -> headkv.CompressedCache:
    """A batch of equal sequences."""
    return prefilled.repeat(rows).compress(method) if rows > 1 else prefilled.compress(method)


def _stepper(forward: Any, cache: Any, rows: int) -> Callable[[], object]:
    """Feeds one more token to every sequence, each time it is called."""
    place = [2000]

    def step() -> None:
        place[0] += 1
        with torch.no_grad():
            forward(
                input_ids=torch.full((rows, 1), place[0]),
                position_ids=torch.full((rows, 1), place[0]),
                past_key_values=cache,
                use_cache=True,
            )

    return step


def _one_by_one(step: Callable[[], object]) -> Callable[[], object]:
    """The same step with the backend that attends sequence by sequence."""

    def slow() -> None:
        with mock.patch.dict("os.environ", HEADKV_BACKEND="segments"):
            step()

    return slow


if __name__ == "__main__":
    sys.exit(front_door(main))
