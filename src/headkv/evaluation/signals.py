"""SIGTERM and Ctrl-C end a run with one line and the exit code that shells expect."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def orderly_end(left: Callable[[], str]) -> Iterator[None]:
    """Inside, SIGTERM stops what is going on just as Ctrl-C does.

    Rows are written whole or not at all (a torn line is cut off by the next run), so there is
    nothing to tidy up.

    Args:
        left: says what is left to do.

    Raises:
        SystemExit: with code 143 after SIGTERM, 130 after Ctrl-C.
    """
    here = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = signal.signal(signal.SIGTERM, _stop) if here else None
    try:
        yield
    except KeyboardInterrupt as stopped:
        name, code = ("terminated", 143) if isinstance(stopped, Terminated) else ("stopped", 130)
        print(f"{name}: {left()}", file=sys.stderr, flush=True)
        raise SystemExit(code) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Terminated
