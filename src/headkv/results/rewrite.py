"""Replacing result files: whole or not at all, and not while a run writes them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from headkv.errors import UserError
from headkv.storage.atomic import allow_many_files, cannot_write, write_bytes

SETTING = "another folder"
"""What a user changes to write elsewhere, for errors."""


@contextmanager
def held(files: Iterable[Path]) -> Iterator[None]:
    """Keeps runs from writing these files while the block runs.

    Raises:
        UserError: a run is writing one of them, or one cannot be opened.
    """
    descriptors: list[int] = []
    allow_many_files()
    try:
        for path in files:
            descriptors.append(os.open(path, os.O_RDWR))
            if not lock_descriptor(descriptors[-1], blocking=False):
                raise UserError(
                    f"a run is writing {path}", allowed="finished or stopped runs", do="wait for it"
                )
        yield
    except OSError as problem:
        raise cannot_write(Path(str(problem.filename)), problem, SETTING) from problem
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def replace(path: Path, lines: Sequence[bytes], instead_of: Iterable[Path]) -> None:
    """Puts these lines into a file, then removes the files that they come from.

    Killed in between, it leaves rows twice, which are the same and count once.

    Args:
        path: the file; none is left where there are no lines.
        lines: bytes of every line, each with its newline.
        instead_of: the files that the lines come from, `path` itself among them or not.

    Raises:
        UserError: the folder cannot be written or the disk is full; all files are as before.
    """
    if lines:
        write_bytes(path, b"".join(lines), SETTING)
    try:
        for old in instead_of:
            if old != path or not lines:
                old.unlink()
    except OSError as problem:
        raise cannot_write(path, problem, SETTING) from problem
