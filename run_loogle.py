"""LooGLE: the four kinds of long-dependency questions of HeadKV's table, and LooGLE's own tasks.

.venv/bin/python run_loogle.py method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.cli import main
from headkv.config import instantiate
from headkv.evaluation.job import run_benchmark


def loogle(settings: Any, data_dir: Path | None) -> Benchmark:
    """The benchmark of `conf/benchmark/loogle.yaml`."""
    benchmark: Benchmark = instantiate("benchmark loogle", dict(settings), data_dir=data_dir)
    return benchmark


if __name__ == "__main__":
    main("loogle", lambda config: run_benchmark(config, loogle))
