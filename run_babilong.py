"""BABILong: reason-in-a-haystack, qa1 to qa5 at lengths from 0k to 128k.

.venv/bin/python run_babilong.py task=[qa1,qa2] method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.cli import main
from headkv.config import instantiate
from headkv.evaluation.job import run_benchmark


def babilong(settings: Any, data_dir: Path | None) -> Benchmark:
    """The benchmark of `conf/benchmark/babilong.yaml`."""
    benchmark: Benchmark = instantiate("benchmark babilong", dict(settings), data_dir=data_dir)
    return benchmark


if __name__ == "__main__":
    main("babilong", lambda config: run_benchmark(config, babilong))
