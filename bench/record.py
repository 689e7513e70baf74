"""How a benchmark ends: its figures against what they should be, printed and written."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.report import Check
from headkv.config import ROOT
from headkv.storage import run_record
from headkv.storage.atomic import write_json

FOLDER = ROOT / "results" / "bench"


def most(what: str, value: float, limit: float, unit: str = "x") -> Check:
    """A figure that should be no larger than a limit."""
    return Check(what, f"{value:.3f} {unit}", f"at most {limit:g} {unit}", value <= limit)


def least(what: str, value: float, limit: float, unit: str = "x") -> Check:
    """A figure that should be no smaller than a limit."""
    return Check(what, f"{value:.2f} {unit}", f"at least {limit:g} {unit}", value >= limit)


def in_turns(
    ways: Mapping[str, Callable[[], object]], turns: int, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, every turn one after the other, so that the machine meets all alike.

    Args:
        ways: what to time, by name.
        turns: how often.
        warm: turns before these that are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm + turns):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios of neighbouring turns."""
    return median(mine / other for mine, other in zip(own, base, strict=True))


def conclude(
    name: str, figures: Mapping[str, Any], checks: Sequence[Check], options: Mapping[str, Any]
) -> int:
    """Prints the checks, writes `results/bench/NAME.json`; exit code 0 whatever they say.

    Args:
        name: of the benchmark.
        figures: what was measured.
        checks: what of it should hold.
        options: the command line.
    """
    print("\n".join(map(str, checks)))
    record = run_record.describe({key: str(value) for key, value in options.items()})
    record |= {"finished": run_record.now(), "measured": dict(figures)}
    path = Path(FOLDER / f"{name}.json")
    write_json(path, record | {"checks": [vars(each) for each in checks]})
    print(f"written: {path}")
    return 0
