"""One process at a time: a lock on the file that is written, which ends with the process."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, lock_descriptor

from headkv.errors import UserError
from headkv.storage.atomic import allow_many_files, cannot_write


def open_locked(path: Path, setting: str, do: str) -> io.FileIO:
    """Opens a file for writing, made with its folder if need be, and keeps other processes out.

    Args:
        path: the file.
        setting: what the user changes to write elsewhere, for the error.
        do: what to do if another process has it.

    Returns:
        The file; closing it lets others in.

    Raises:
        UserError: another process writes it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        allow_many_files()
        while True:
            file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            if not lock_descriptor(file.fileno(), blocking=False):
                file.close()
                raise UserError(
                    f"another process is writing {path}", allowed="one process a file", do=do
                )
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()  # its last holder removed it between opening and locking
    except OSError as problem:
        raise cannot_write(path, problem, setting) from problem


@contextmanager
def waiting(path: Path, setting: str) -> Iterator[None]:
    """Lets one process after the other read, change and write a file.

    Args:
        path: the file.
        setting: what the user changes to write elsewhere, for the error.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as problem:
        raise cannot_write(path, problem, setting) from problem
    try:
        yield
    finally:
        lock.release()
