"""What the tests share: fixtures, and one thread for each of the processes that run them."""

import os

from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
# Set before torch is imported, which only some tests need; their subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "fixtures.files",
    "fixtures.grids",
    "fixtures.methods",
    "fixtures.models",
    "fixtures.results",
    "fixtures.tokenizers",
]
