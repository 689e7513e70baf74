"""What the tests share: fixtures, and one thread for each of the processes that run them."""

import os

# Set before torch is imported, which only some tests need; their subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "fixtures.grids",
    "fixtures.methods",
    "fixtures.models",
    "fixtures.results",
    "fixtures.tokenizers",
]
