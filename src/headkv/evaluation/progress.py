"""How far a run is: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS = 30.0  # between two lines


class Progress:
    """Counts finished examples and answer tokens.

    Args:
        name: of the run.
        examples: to be done.
        memory: bytes in use now.
    """

    def __init__(self, name: str, examples: int, memory: Callable[[], int]) -> None:
        self.name, self.examples, self.memory = name, examples, memory
        self.done, self.tokens = 0, 0
        self._start = self._said = time.monotonic()
        self._bar = tqdm(
            total=examples,
            desc=name,
            unit=" examples",
            disable=not sys.stderr.isatty(),
            bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}| {rate_noinv_fmt}, "
            "{remaining} left{postfix}",
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
        self.done += examples
        self.tokens += tokens
        now = time.monotonic()
        rate = f"{self.tokens / max(now - self._start, 1e-9):.1f} tokens/s"
        held = f"{self.memory() / 2**30:.1f} GiB"
        self._bar.set_postfix_str(f"{rate}, {held}", refresh=False)
        self._bar.update(examples)
        if self._bar.disable and now - self._said >= _SECONDS:
            self._said = now
            print(self._line(now - self._start, rate, held), file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Prints a line beside the bar."""
        tqdm.write(line, file=sys.stderr)

    def _line(self, seconds: float, rate: str, held: str) -> str:
        speed = self.done / seconds
        left = (self.examples - self.done) / speed if speed else None
        remaining = "unknown" if left is None else tqdm.format_interval(left)
        return (
            f"{self.name}: {self.done}/{self.examples} examples, {speed:.2g} examples/s, {rate}, "
            f"{remaining} left, {held}"
        )
