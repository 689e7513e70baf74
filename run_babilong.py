"""BABILong: reason-in-a-haystack, qa1 to qa5 at lengths from 0k to 128k.

.venv/bin/python run_babilong.py task=[qa1,qa2] method=[fullkv,snapkv,headkv_r2] kv_size=128
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("babilong")
