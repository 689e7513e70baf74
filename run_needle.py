"""Needle-in-a-haystack: five-digit codes hidden in essays.

.venv/bin/python run_needle.py method=[snapkv,headkv_r2] kv_size=[64,128]
"""

from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.needle import Needle
from headkv.cli import main
from headkv.config import instantiate
from headkv.downloads.wheels import haystack_dir
from headkv.evaluation.job import run_benchmark


def needle(settings: Any, data_dir: Path | None) -> Benchmark:
    """The benchmark of `conf/benchmark/needle.yaml`; essays from `data_dir` if it has any."""
    config = instantiate("benchmark needle", dict(settings))
    own = data_dir / "haystack" if data_dir is not None else None
    return Needle(config, own if own is not None and own.is_dir() else haystack_dir())


if __name__ == "__main__":
    main("needle", lambda config: run_benchmark(config, needle))
