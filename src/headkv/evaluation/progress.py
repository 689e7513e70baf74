"""How far a run is: a bar on a terminal, else a line of it now and then."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS = 30.0  # between two lines where there is no terminal


class Progress:
    """Counts finished examples and answer tokens.

    Args:
        name: the name of the run.
        examples: number of examples to be done.
        memory: says how many bytes are in use now.
    """

    def __init__(self, name: str, examples: int, memory: Callable[[], int]) -> None:
        terminal = sys.stderr.isatty()
        self.memory, self.tokens, self._start = memory, 0, time.monotonic()
        line = "{desc}: {n_fmt}/{total_fmt} examples, {rate_noinv_fmt}, {remaining} left{postfix}"
        self._bar = tqdm(
            total=examples,
            desc=name,
            unit=" examples",
            delay=0 if terminal else _SECONDS,
            mininterval=0.1 if terminal else _SECONDS,
            bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}| {rate_noinv_fmt}, {remaining} left"
            "{postfix}"
            if terminal
            else line + "\n",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def add(self, examples: int = 0, tokens: int = 0) -> None:
        """Takes note of finished examples and of answer tokens, and shows it."""
        self.tokens += tokens
        rate = self.tokens / max(time.monotonic() - self._start, 1e-9)
        held = self.memory() / 2**30
        self._bar.set_postfix_str(f"{rate:.1f} tokens/s, {held:.1f} GiB", refresh=False)
        self._bar.update(examples)
