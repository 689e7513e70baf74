"""Perplexity of long text while the cache is cut again and again to a fixed size.

.venv/bin/python run_stream.py method=[fullkv,streamingllm,snapkv,rkv] kv_size=[128,256] tokens=4096
"""

from headkv.__main__ import run

if __name__ == "__main__":
    run("stream")
