"""A prefill that records what methods need, and one that compresses, against SDPA's alone.

make bench          # or: .venv/bin/python -m bench.prefill --help
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import median

import torch
from transformers import DynamicCache

import headkv
from bench.record import conclude, in_turns, most, ratio
from bench.sides import method_of
from bench.steps import with_sdpa
from headkv.cli import front_door
from headkv.efficiency.workload import real_workload
from headkv.models.spec import load_spec


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    options = parser.parse_args(given)
    torch.set_num_threads(options.threads)
    workload = real_workload(load_spec("smollm2_135m"), None, max(options.lengths) + 1)
    model, plain = workload.model, with_sdpa(workload.model)
    methods = [method_of(name, workload, 128) for name in ("snapkv", "adakv", "headkv_r2")]
    figures, checks = {}, []
    for length in options.lengths:
        ids = workload.ids(length)

        def dynamic(ids: torch.Tensor = ids) -> None:
            with torch.no_grad():
                plain(ids, past_key_values=DynamicCache(config=plain.config), logits_to_keep=1)

        def recorded(ids: torch.Tensor = ids) -> None:
            headkv.prefill(model, {"input_ids": ids}, methods=methods)

        def compressed(ids: torch.Tensor = ids) -> None:
            cache = headkv.CompressedCache(model.config, methods[0])
            with torch.no_grad():
                model(ids, past_key_values=cache, logits_to_keep=1)

        ways = {"dynamic_cache": dynamic, "prefill": recorded, "snapkv": compressed}
        seconds = in_turns(ways, options.turns)
        base = seconds["dynamic_cache"]
        figures[str(length)] = {
            name: {"s": median(spent), "of_dynamic": ratio(spent, base)}
            for name, spent in seconds.items()
        }
        of_dynamic = ratio(seconds["prefill"], base)
        checks.append(most(f"prefill of {length} tokens against SDPA's", of_dynamic, 1.02))
        print(length, figures[str(length)])
    return conclude("prefill", figures, checks, vars(options))


if __name__ == "__main__":
    sys.exit(front_door(main))
