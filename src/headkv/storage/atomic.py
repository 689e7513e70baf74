"""TODO."""

import io
import json
import os
import resource
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from headkv.errors import UserError

_OPEN_FILES = 8192  # a grid of 40 cells has more files than the 1,024 that many systems allow


def append_line(path: Path, whole: int, line: bytes, setting: str) -> int:
    """Writes a line behind the first `whole` bytes of a file and flushes it.

    Args:
        path: the file; made with its folder if need be.
        whole: bytes of whole lines; what is torn behind them is cut off.
        line: with its newline.
        setting: what the user changes to write elsewhere.

    Returns:
        Bytes of whole lines now.

    Raises:
        UserError: the folder cannot be written or the disk is full; lines before stay intact.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
            _write(file, whole, line)
    except OSError as problem:
        raise cannot_write(path, problem, setting) from problem
    return whole + len(line)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all, however many processes do so at once.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n"
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError as problem:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise cannot_write(path, problem, "output_dir=") from problem


def cannot_write(path: Path, problem: OSError, setting: str) -> UserError:
    """The user error for a disk that is full or a folder that may not be written."""
    return UserError(
        f"cannot write {path}: {problem.strerror}",
        allowed="a folder with free space that you may write to",
        do=f"free it or set {setting}, then run again: what is finished is kept",
    )


def _write(file: io.FileIO, whole: int, line: bytes) -> None:
    """Puts a line behind `whole` bytes, on the disk; without it if there is no room for all."""
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


def allow_many_files() -> None:
    """Raises this process's limit on open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write_atomic(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
