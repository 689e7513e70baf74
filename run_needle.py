"""Needle-in-a-haystack: five-digit codes hidden in essays.

.venv/bin/python run_needle.py method=[snapkv,headkv_r2] kv_size=[64,128]
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("needle")
