"""Seconds of what needs no model: help, mistakes, and importing the package.

make bench          # or: .venv/bin/python -m bench.loading
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median

from bench.record import conclude, in_turns, most
from headkv.cli import front_door

REFUSAL, IMPORT = 1.5, 0.3  # seconds at most
COMMANDS = {
    "--help": ["-m", "headkv", "needle", "--help"],
    "unknown command": ["-m", "headkv", "neddle"],
    "kv_size=abc": ["-m", "headkv", "needle", "kv_size=abc"],
    "method=snapk": ["-m", "headkv", "needle", "method=snapk"],
    "scorer.kernel_size=4": ["-m", "headkv", "needle", "method=snapkv", "scorer.kernel_size=4"],
    "longbench without data": ["-m", "headkv", "longbench", "data_dir=no_such_folder"],
}
IMPORTS = {"must": "import torch, transformers", "all": "import torch, transformers, headkv"}


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(given)
    calls = {**COMMANDS, **{name: ["-c", code] for name, code in IMPORTS.items()}}
    ways = {name: partial(_run, words) for name, words in calls.items()}
    found = {name: median(spent) for name, spent in in_turns(ways, options.turns).items()}
    checks = [most(name, found[name], REFUSAL, "s") for name in COMMANDS]
    beyond = max(found["all"] - found["must"], 0)
    checks.append(most("import headkv beyond torch and transformers", beyond, IMPORT, "s"))
    return conclude("loading", found, checks, vars(options))


def _run(words: Sequence[str]) -> None:
    subprocess.run([sys.executable, *words], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(front_door(main))
