"""The cache of fetched and converted files: made once, whole or not at all, and hashed once."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from headkv.config import ROOT, expanded
from headkv.errors import UserError
from headkv.storage.atomic import write_bytes

DENIED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}
"""Errors of the system that mean: this can be no folder, cannot be written, or is full."""


def cache_dir() -> Path:
    """Returns the folder of fetched and converted files: `$HEADKV_CACHE`, else `.cache/headkv`.

    The latter lies in the checkout this package is imported from, so that every script, from any
    working directory, shares one copy; a package installed otherwise uses the working directory.
    """
    if given := os.environ.get("HEADKV_CACHE", "").strip():
        return expanded("HEADKV_CACHE", given).resolve()
    root = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
    return root / ".cache" / "headkv"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns the folder `target`; makes it first, whole or not at all, if it is not there.

    An interrupted build leaves no `target`, and of two processes one builds while the other waits.

    Args:
        target: the folder.
        build: fills a folder beside the target, which is renamed when it returns.

    Raises:
        UserError: the parent folder cannot be written, or is full.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _build(target, partial, build)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        raise _unusable(target, error) from error
    return target


def _unusable(path: Path, error: OSError) -> UserError:
    """The refusal of a cache that is no folder, or cannot be read or written."""
    return UserError(
        f"cannot use {path}: {error.strerror}",
        allowed="a folder that can be read and written, with 1 GB free",
        do="set the environment variable HEADKV_CACHE to one",
    )


def _build(target: Path, partial: Path, build: Callable[[Path], None]) -> None:
    """Builds beside the target and renames; the caller holds the lock."""
    # What a killed process left behind; under the lock nobody else can be at it.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Returns the hex sha256 of a file, read in pieces: weights need not fit in memory twice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """Returns what an error says in one line; its type if it says nothing, as some timeouts do."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def remembered_sha256(file: Path) -> str:
    """Returns `file_sha256`, computed once for each size and time of the file.

    Raises:
        UserError: the cache cannot be read or written.
    """
    state = file.stat()
    key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"
    note = cache_dir() / "sha256" / hashlib.sha256(key.encode()).hexdigest()
    try:
        if note.is_file():
            return note.read_text()
    except OSError as error:
        raise _unusable(note, error) from error
    found = file_sha256(file)
    write_bytes(note, found.encode(), "the environment variable HEADKV_CACHE")
    return found
