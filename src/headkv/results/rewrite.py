"""Replacing result files: whole or not at all, and not while a run writes them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from headkv.errors import UserError
from headkv.storage.atomic import allow_many_files, cannot_write


@contextmanager
def held(files: Iterable[Path]) -> Iterator[None]:
    """Keeps runs from writing these files.

    Raises:
        UserError: one is being written.
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
        raise cannot_write(Path(str(problem.filename)), problem, "the folder") from problem
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def replace(path: Path, lines: Sequence[bytes], instead_of: Iterable[Path]) -> None:
    """Puts these lines into a file, then removes the files that they come from.

    Killed in between, it leaves rows twice, which are the same and count once.

    Args:
        path: the file; none is left where there are no lines.
        lines: each with its newline.
        instead_of: files, `path` itself among them or not.

    Raises:
        UserError: the folder cannot be written or the disk is full; all files are as before.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        for old in instead_of:
            if old != path or not lines:
                old.unlink()
    except OSError as problem:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise cannot_write(path, problem, "the folder") from problem
