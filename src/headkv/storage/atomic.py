"""Writing to disk so that no reader ever sees half a file, and a full disk is one line of text.

Whole files are written beside their place and renamed into it (`write_bytes`, `write_json`); lines
are put behind whole ones and cut off again if they do not fit (`put_line`).
"""

import io
import json
import os
import resource
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from headkv.errors import UserError

OPEN_FILES = 8192
"""Open files that a run wants: a grid of 40 cells has more than the usual limit of 1,024."""


def write_bytes(path: Path, content: bytes, setting: str = "output_dir=") -> Path:
    """Writes a file whole or not at all, however many processes do so at once.

    Args:
        path: the file; its folder is made if need be.
        content: all its bytes.
        setting: what the user changes to write elsewhere, for the error.

    Returns:
        `path`.

    Raises:
        UserError: the folder cannot be written or the disk is full; an older file stays as it is.
    """
    # Named .partial, so that `headkv results gc` finds what a killed process left.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as problem:
        raise cannot_write(path, problem, setting) from problem
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def write_json(path: Path, content: Any, setting: str = "output_dir=") -> Path:
    """Writes a JSON file as `write_bytes` does, indented; what JSON cannot hold becomes its text.

    Raises:
        UserError: the folder cannot be written or the disk is full; an older file stays as it is.
        ValueError: the content refers to itself.
    """
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n"
    return write_bytes(path, text.encode("utf-8", "replace"), setting)


def put_line(file: io.FileIO, whole: int, line: bytes) -> None:
    """Puts a line behind the first `whole` bytes of an open file, on the disk, or not at all.

    Raises:
        OSError: there is no room; the file has its first `whole` bytes.
    """
    try:
        file.truncate(whole)
        file.seek(whole)
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(whole)
        raise


def cannot_write(path: Path, problem: OSError, setting: str) -> UserError:
    """Returns the user error for a disk that is full or a folder that may not be written."""
    return UserError(
        f"cannot write {path}: {problem.strerror or problem}",
        allowed="a folder with free space that you may write to",
        do=f"free it or set {setting}, then run again: what is finished is kept",
    )


def allow_many_files() -> None:
    """Raises this process's limit on open files to `OPEN_FILES`, or as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
