"""SIGTERM and Ctrl-C end a run with one line and the exit code that shells expect."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class Stopped(KeyboardInterrupt):
    """A run was told to stop; the command line prints the message and exits with the code.

    Args:
        message: what was done and what is left, one line.
        code: 143 after SIGTERM, 130 after Ctrl-C.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def orderly_end(left: Callable[[], str]) -> Iterator[None]:
    """Inside, SIGTERM stops what is going on just as Ctrl-C does.

    Rows are written whole or not at all (a torn line is cut off by the next run), so there is
    nothing to tidy up.

    Args:
        left: says what is left to do.

    Raises:
        Stopped: after SIGTERM or Ctrl-C.
    """
    here = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = signal.signal(signal.SIGTERM, _stop) if here else None
    try:
        yield
    except KeyboardInterrupt as stopped:
        name, code = ("terminated", 143) if isinstance(stopped, Terminated) else ("stopped", 130)
        raise Stopped(f"{name}: {left()}", code) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Terminated
