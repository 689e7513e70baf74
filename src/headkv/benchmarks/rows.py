"""Where a benchmark's rows lie: `data_dir`, the cache, the hub, or the repository's own sample.

Knows files and folders, not what their rows mean.
"""

import codecs
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

# Whichever httpx the installed hub uses, its errors derive from this one.
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from headkv.config import DATA
from headkv.downloads.cached import DENIED, cache_dir, first_line
from headkv.errors import UserError

logger = logging.getLogger(__name__)

Fetch = Callable[[Path, Sequence[str]], None]
"""Puts the named files, and any others that come with them, into a folder."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
SAMPLES = DATA / "samples"
"""A few rows of every benchmark, written for this repository."""


@dataclass(frozen=True)
class Source:
    """Where to read.

    Attributes:
        folder: the folder of the files.
        sample: whether it is the repository's own small sample and not the benchmark.
    """

    folder: Path
    sample: bool


def locate(
    benchmark: str, files: Sequence[str], data_dir: Path | None, fetch: Fetch | None
) -> Source:
    """Finds the files: in `data_dir`, the cache, the hub; else the sample, with a warning.

    Args:
        benchmark: name of the benchmark and of its folder in `data_dir`.
        files: names of the files that are needed.
        data_dir: the user's data; its folder for the benchmark, if there is one, must have
            every file.
        fetch: downloads files into a folder; None: nothing can be fetched.

    Raises:
        UserError: some data is there, but not this file; or the sample has no such file either.
    """
    own = data_dir / benchmark if data_dir is not None else None
    if own is not None and own.is_dir():
        _complete(benchmark, files, own)
        return Source(own, sample=False)
    try:
        return Source(cached(benchmark, files, fetch), sample=False)
    except UserError as problem:
        # Who has part of the data asks for the benchmark: a sample is not what they want.
        if any(_cache(benchmark).glob("*")):
            raise
        reason = problem.what
    sample = SAMPLES / benchmark
    _complete(benchmark, files, sample)
    logger.warning(
        "\nSAMPLE ONLY: %s.\n"
        "Running a few rows written for this repository instead (%s).\n"
        "They are not %s: the scores mean nothing, and go to %s_sample.\n",
        reason,
        sample,
        benchmark,
        benchmark,
    )
    return Source(sample, sample=True)


def present(benchmark: str, files: Sequence[str], data_dir: Path | None) -> list[str]:
    """Returns those of the files that `data_dir` has; all if it has no such benchmark."""
    own = data_dir / benchmark if data_dir is not None else None
    if own is None or not own.is_dir():
        return list(files)
    return [name for name in files if (own / name).is_file()]


def cached(benchmark: str, files: Sequence[str], fetch: Fetch | None) -> Path:
    """Returns the benchmark's folder in the cache, with these files in it, fetched if need be.

    Every file appears whole or not at all; of two processes one fetches while the other waits.

    Raises:
        UserError: a file is not cached and cannot be fetched, or the cache cannot be written.
    """
    folder, why = _cache(benchmark), ""
    if fetch is not None and _missing(folder, files):
        try:
            _fill(folder, files, fetch)
        except UserError as problem:
            why = f" ({problem.what})"
        except (OSError, HTTPError) as problem:
            if isinstance(problem, OSError) and problem.errno in DENIED:
                raise UserError(
                    f"cannot write {folder}: {problem.strerror}",
                    allowed="a folder with free space that can be written",
                    do="set the environment variable HEADKV_CACHE to one",
                ) from problem
            why = f" ({first_line(problem)})"
    _complete(benchmark, files, folder, why, fetched=fetch is not None)
    return folder


def unpack(archive: Path, folder: Path, wanted: Container[str], origin: str) -> None:
    """Unpacks some files of a zip archive side by side, without its folders.

    Args:
        archive: the zip file.
        folder: the folder that gets the files.
        wanted: names of the files.
        origin: what the archive is, for the error.

    Raises:
        UserError: the archive is broken.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                if (name := Path(member).name) in wanted:
                    with opened.open(member) as source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as problem:
        raise UserError(
            f"{archive} is broken ({problem})", allowed=origin, do="delete it and run again"
        ) from problem


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Reads JSONL line by line.

    Args:
        path: the file, one JSON object a line.
        fields: names that every object must have.

    Raises:
        UserError: the first line that is no such object, with its number; or no such file.
    """
    try:
        number = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _row(line, f"{path} line {number}", fields)
        if number == 0:
            raise UserError(
                f"{path} is empty", allowed="one JSON object a line", do="download the file again"
            )
    except OSError as problem:
        raise UserError(
            f"cannot read {path}: {problem.strerror}",
            allowed="a file that may be read",
            do="check data_dir=",
        ) from problem


def _fill(folder: Path, files: Sequence[str], fetch: Fetch) -> None:
    """Fetches the files that are missing; of two processes one does, while the other waits."""
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left behind
        partial.mkdir()
        try:
            if missing := _missing(folder, files):
                fetch(partial, missing)
                folder.mkdir(exist_ok=True)
                for path in partial.iterdir():
                    path.replace(folder / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _row(line: bytes, where: str, fields: Sequence[str]) -> dict[str, Any]:
    """The object of a line, which has all fields."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _broken(where, "is UTF-16, not UTF-8")
    try:
        row = json.loads(line.removeprefix(codecs.BOM_UTF8))
    except RecursionError as problem:
        raise _broken(where, "is nested too deeply") from problem
    except ValueError as problem:  # bad UTF-8 is one, too
        raise _broken(where, f"is not JSON ({first_line(problem)})") from problem
    if not isinstance(row, dict):
        raise _broken(where, "is not a JSON object")
    if missing := [field for field in fields if field not in row]:
        raise _broken(where, f"has no {', '.join(missing)}")
    mended = {key: _mended(value) for key, value in row.items()}
    if mended != row:
        logger.warning("%s: characters that are no text were replaced by \ufffd", where)
    return mended


def _mended(value: Any) -> Any:
    """The value, NUL and half surrogate pairs in its texts replaced: no tokenizer takes them."""
    if isinstance(value, str):
        return _NO_TEXT.sub("\ufffd", value)
    return [_mended(each) for each in value] if isinstance(value, list) else value


def _broken(where: str, what: str) -> UserError:
    return UserError(
        f"{where} {what}", allowed="one JSON object a line", do="download the file again"
    )


def _cache(benchmark: str) -> Path:
    return cache_dir() / "data" / benchmark


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not (folder / name).is_file()]


def _complete(
    benchmark: str, files: Sequence[str], folder: Path, why: str = "", *, fetched: bool = True
) -> None:
    """Raises `UserError` that names the missing files and, in brackets, why they are.

    Args:
        benchmark: the benchmark's name.
        files: what has to be there.
        folder: where.
        why: in brackets, or nothing.
        fetched: whether the hub has them.
    """
    if missing := _missing(folder, files):
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"no {folder / missing[0]}{others}{why}",
            allowed=f"a folder with {', '.join(missing[:3])}{' ...' if missing[3:] else ''}",
            do=f"put {missing[0]} into {benchmark}/ under data_dir="
            + (
                f", or run `headkv data {benchmark}` where the hub can be reached and copy "
                f"{_cache(benchmark)}"
                if fetched
                else ""
            ),
        )
