"""LongBench and LongBench-E: 21 tasks in English and Chinese, 13 of them again by length.

.venv/bin/python run_longbench.py task=qa6 method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.cli import main
from headkv.config import instantiate
from headkv.evaluation.job import run_benchmark


def longbench(settings: Any, data_dir: Path | None) -> Benchmark:
    """The benchmark of `conf/benchmark/longbench.yaml`."""
    benchmark: Benchmark = instantiate("benchmark longbench", dict(settings), data_dir=data_dir)
    return benchmark


if __name__ == "__main__":
    main("longbench", lambda config: run_benchmark(config, longbench))
