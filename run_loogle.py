"""LooGLE: the four kinds of long-dependency questions of HeadKV's table, and LooGLE's own tasks.

.venv/bin/python run_loogle.py method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("loogle")
