"""LongBench and LongBench-E: 21 tasks in English and Chinese, 13 of them again by length.

.venv/bin/python run_longbench.py task=qa6 method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("longbench")
