"""What compressing costs: every method's seconds as a share of the prefill, side by side.

    make bench          # or: .venv/bin/python -m bench.compression_cost --help

One prompt is prefilled, then compressed under every method in turn. What methods look at is worked
out anew for each, as in a stock `generate`, where nothing is shared. A second pass over the prompt
is read once for all that note the same, and stands apart: nobody compresses without it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from bench.sides import method_of
from headkv.cache import plan_layers
from headkv.cli import front_door
from headkv.config import ROOT, names
from headkv.efficiency.rows import device_name
from headkv.efficiency.workload import Workload, real_workload
from headkv.generation.prefill import Prefilled, prefill
from headkv.generation.reading import Reading
from headkv.generation.second_pass import read_again
from headkv.methods import Method
from headkv.models.spec import load_spec
from headkv.storage import run_record
from headkv.storage.atomic import write_json

LIMIT = 5.0  # per cent of the prefill, of a method that looks at one layer and reads once
APART = 20  # tokens a sentence, for scorers that ask where one ends


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2_135m", help="a model of conf/model")
    parser.add_argument("--length", type=int, default=4096, help="tokens of the prompt")
    parser.add_argument("--methods", nargs="+", default=[*names("method"), "snapkv+span"])
    parser.add_argument("--kv-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2, help="turns of every method")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--output", type=Path, help="default: a file in results/bench")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; the exit code is 0 whatever the figures say.

    Raises:
        UserError: a model or method that cannot be used.
    """
    options = arguments(given)
    torch.set_num_threads(options.threads)
    workload = real_workload(load_spec(options.model), None, options.length)
    methods = {name: method_of(name, workload, options.kv_size) for name in options.methods}
    ids = workload.ids(options.length)
    inputs: dict[str, Any] = {"input_ids": ids}
    prefill(workload.model, {"input_ids": ids[:, :256]})  # warms up
    took, prefilled = [], None
    for _ in range(2):
        began = _now()
        prefilled = prefill(workload.model, inputs, ends=ids % APART == 0)
        took.append(_now() - began)
    assert prefilled is not None
    passes = {each.second_pass for each in methods.values()} - {frozenset()}
    second = {
        notes: _read_again(workload, prefilled, notes) for notes in sorted(passes, key=sorted)
    }
    whole, turns = min(took), [name for _ in range(options.repeats) for name in methods]
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for name in tqdm(turns, desc="compress", unit="turn"):
        seconds[name].append(_compress(prefilled, methods[name]))
    rows = [
        {
            "method": name,
            "scope": methods[name].allocator.scope,
            "seconds": median(each),
            "percent": 100 * median(each) / whole,
            "second_pass_percent": 100 * second.get(methods[name].second_pass, 0.0) / whole,
        }
        for name, each in seconds.items()
    ]
    print(f"\n{options.length} tokens, prefill {whole:.2f} s ({took[0]:.2f}, {took[1]:.2f})")
    for row in sorted(rows, key=lambda row: row["percent"]):
        over = "" if row["percent"] <= LIMIT else f"  over {LIMIT:g} %"
        if row["second_pass_percent"]:
            over += f"  and a second pass, {row['second_pass_percent']:.0f} %"
        print(f"{row['method']:24s} {row['seconds']:7.3f} s {row['percent']:6.2f} %{over}")
    path = options.output or ROOT / "results" / "bench" / "compression_cost.json"
    record = run_record.describe({**vars(options), "output": str(path)})
    record |= {"device": device_name(workload.model.device), "finished": run_record.now()}
    write_json(path, record | {"prefill": took, "limit": LIMIT, "methods": rows})
    print(f"written: {path}")
    return 0


def _read_again(workload: Workload, prefilled: Prefilled, notes: frozenset[str]) -> float:
    """Seconds of a second pass, whose notes every layer keeps from then on."""
    plans, began = plan_layers(workload.model.config), _now()
    read_again(workload.model, prefilled.layers, plans, prefilled.ids, notes, Reading())
    return _now() - began


def _compress(prefilled: Prefilled, method: Method) -> float:
    """Seconds of one compression, nothing known of the layers before."""
    for layer in prefilled.layers:
        layer.forget()
    began = _now()
    prefilled.compress(method)
    return _now() - began


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(front_door(main))
