"""What the demo's cells cost beside their shared prefill, which no method can save.

    make bench          # or: .venv/bin/python -m bench.demo --help

Seconds of compression, decoding and fidelity of all 22 cells over those of the prefill, in one
process, on examples spread over the demo's.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from headkv.cli import front_door
from headkv.config import ROOT, compose
from headkv.evaluation.assembly import assemble
from headkv.evaluation.settings import Settings
from headkv.storage import run_record
from headkv.storage.atomic import write_json

LIMIT = 0.7  # of the prefill, at most


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=4, help="of the demo's, evenly spread")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--changes", nargs="*", default=[], help="settings, e.g. kv_size=[64]")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench" / "demo.json")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    options = arguments(given)
    torch.set_num_threads(options.threads)
    made = assemble(Settings.parse(compose("needle", ["experiment=demo", *options.changes])))
    runner, every = made.runner, made.runner.examples(made.tasks)
    together, apart = runner.settings.batch_size or 1, max(len(every) // options.batches, 1)
    found = []
    for first in tqdm(range(0, len(every), apart)[: options.batches], desc="demo", unit="batch"):
        seconds: Counter[str] = Counter()
        encoded = [runner.encoder.encode(each) for each in every[first : first + together]]
        for answers in runner.scheduler().answers(encoded, range(len(runner.cells))):
            for each in answers:
                shared = each.seconds.pop("prefill") / len(runner.cells)
                seconds.update(each.seconds | {"prefill": shared})
        tokens = [len(each.prompt.input_ids) for each in encoded]
        found.append({"id": every[first].id, "tokens": tokens, **seconds})
    total: Counter[str] = Counter()
    for row in found:
        total.update({step: value for step, value in row.items() if isinstance(value, float)})
    share = (total.total() - total["prefill"]) / total["prefill"]
    steps = ", ".join(f"{step} {value:.2f} s" for step, value in total.items())
    print(f"{len(found)} batches of {together}, {len(runner.cells)} cells: {steps}")
    verdict = "holds" if share <= LIMIT else "FAILS"
    print(f"{verdict:12s} cells beside their prefill: {share:.2f} of it (at most {LIMIT:g})")
    record = run_record.describe({**vars(options), "output": str(options.output)})
    record |= {"finished": run_record.now(), "limit": LIMIT, "share": share, "batches": found}
    write_json(options.output, record)
    print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(front_door(main))
