"""Seconds and bytes: time to first token, time a token, cache held, peak memory, by method.

.venv/bin/python run_efficiency.py method=[fullkv,snapkv,headkv_r2] lengths=[1024,4096]
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("efficiency")
