"""Bytes and seconds of this package's caches, of `DynamicCache` and of kvpress, in one run.

    make bench          # or: .venv/bin/python -m bench.efficiency --help

Both sides load the same model and read the same tokens; every step is timed by the same code. The
caches take turns, a few tokens each, so that whatever else the machine does meets all of them
alike. kvpress is skipped, with a word, where `make bench-peer` has not been run.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from bench.report import Measured, as_json, checks, table
from bench.sides import Kvpress, Ours, PeerError, peer_python
from headkv.cli import front_door
from headkv.config import CONF, ROOT
from headkv.efficiency.rows import device_name
from headkv.efficiency.subjects import BASELINE
from headkv.efficiency.workload import Workload, random_workload, real_workload
from headkv.models.loading import model_folder
from headkv.models.spec import load_spec
from headkv.storage import run_record
from headkv.storage.atomic import write_json

METHODS = [BASELINE, "fullkv", "snapkv", "adakv", "headkv_r2"]
WARM_UP = 256  # tokens of the prompt that no figure comes from
BURST = 4  # steps of one cache before the next one's turn
LLAMA_8B = yaml.safe_load((CONF / "efficiency.yaml").read_text())["shape"]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; what it leaves out is what suits the device."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2_135m", help="a model of conf/model")
    parser.add_argument(
        "--random", action="store_true", default=cuda, help="an 8B-shaped random model instead"
    )
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[8192, 32768, 131072] if cuda else [4096, 7500]
    )
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--kv-size", type=int, default=1024 if cuda else 128)
    parser.add_argument("--steps", type=int, default=32, help="one-token steps of each cache")
    parser.add_argument("--repeats", type=int, default=3 if cuda else 1, help="prefills of each")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--no-peer", action="store_true", help="leave kvpress out")
    parser.add_argument("--output", type=Path, help="default: a file in results/bench or gpu")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; the exit code is 0 whatever the figures say.

    Raises:
        UserError: a model, method or length that cannot be used.
    """
    options = arguments(given)
    torch.set_num_threads(options.threads)
    longest = max(options.lengths) + options.steps + 1
    with tempfile.TemporaryDirectory() as temporary:
        if options.random:
            scores = Path(temporary) / "scores.json"
            workload, folder = random_workload(LLAMA_8B, "auto", longest, 0, scores), None
        else:
            spec = load_spec(options.model)
            workload, folder = real_workload(spec, None, longest), model_folder(spec)
        ours = Ours(workload, options.methods, options.kv_size)
    sides: list[Ours | Kvpress] = [ours]
    record = run_record.describe(vars(options))
    python = None if options.no_peer else peer_python()
    if python is not None:
        peer = Kvpress(python, workload, folder, options.kv_size)
        record["kvpress"] = peer.versions
        sides.append(peer)
    else:
        record["kvpress"] = None
        print("kvpress is left out: make bench-peer, or set KVPRESS_PYTHON", file=sys.stderr)
    found: list[Measured] = []
    for length in options.lengths:
        found += _measure(sides, workload, length, options)
        print(f"\n{table(found, length)}")
    small = options.model == "smollm2_135m" and workload.model.dtype == torch.float32
    verdicts = checks(found, options.kv_size, small and not options.random)
    print("\n" + "\n".join(str(each) for each in verdicts))
    device = device_name(workload.model.device)
    name = re.sub(r"\W+", "-", f"{device} {workload.name} {options.threads}").strip("-").lower()
    kind = "gpu" if workload.model.device.type == "cuda" else "bench"
    path = options.output or ROOT / "results" / kind / f"bench-{name}.json"
    record |= {"device": device, "finished": run_record.now(), "kv_size": options.kv_size}
    write_json(path, record | as_json(found, verdicts))
    print(f"\nwritten: {path}")
    for side in sides[1:]:
        assert isinstance(side, Kvpress)
        side.close()
    return 0


def _measure(
    sides: Sequence[Ours | Kvpress], workload: Workload, length: int, options: argparse.Namespace
) -> list[Measured]:
    """Measures all caches of all sides at one length, in turns.

    On a GPU, which has no neighbours, one cache at a time: several full ones might not fit.
    """
    found = {
        (side, name): Measured(side.side, name, length) for side in sides for name in side.names
    }
    together = workload.model.device.type == "cpu"
    groups = [list(found)] if together else [[pair] for pair in found]
    for side, name in found:
        side.prefill(name, workload.ids(WARM_UP))
        side.decode(name, BURST)
        side.drop()
    with tqdm(total=len(found) * options.repeats, desc=f"{length} tokens", unit="run") as bar:
        for group in groups * options.repeats:
            for pair in [pair for pair in group if pair in found]:
                bar.set_postfix_str(f"{pair[0].side} {pair[1]}")
                try:
                    _prefill(found[pair], pair[0].prefill(pair[1], workload.ids(length)))
                except (PeerError, torch.OutOfMemoryError) as problem:
                    print(f"{pair[0].side} {pair[1]} is left out: {problem}", file=sys.stderr)
                    del found[pair]
                bar.update()
            for start in range(0, options.steps, BURST):
                for side, name in [pair for pair in group if pair in found]:
                    answer = side.decode(name, min(BURST, options.steps - start))
                    found[side, name].steps += answer["seconds"]
                    found[side, name].held_at_end = answer["held"]
            for side in sides:
                side.drop()
    config = workload.model.config
    generated = options.steps * config.num_hidden_layers * config.num_key_value_heads
    entry = 2 * config.head_dim * workload.model.dtype.itemsize
    for each in found.values():
        each.needed_at_end = each.entry_bytes + generated * entry
    return list(found.values())


def _prefill(measured: Measured, answer: dict[str, float]) -> None:
    """Takes over what a side says of a prefill."""
    measured.first.append(answer["first"])
    measured.compress.append(answer["compress"])
    measured.held = int(answer["held"])
    measured.entry_bytes = int(answer.get("entry_bytes", answer["held"]))
    measured.index_bytes = int(answer.get("index_bytes", 0))
    measured.peak = max(measured.peak, int(answer["peak"]))


if __name__ == "__main__":
    sys.exit(front_door(main))
