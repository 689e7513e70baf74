"""RULER: thirteen tasks at any length, the question not seen by the compression unless told so.

.venv/bin/python run_ruler.py task=niah lengths=[2048,4096] limit=20 kv_size=[512,1024]
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("ruler")
