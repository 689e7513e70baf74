"""Result files: append-only JSONL, one line an example, flushed as it is finished.

A line belongs to a run only if its `run_key` says so. A torn last line (the machine died while
writing) is cut off before the next one is written; its example is done again. So is that of a line
with an `error`. One process at a time writes a file: it holds a lock on the file itself, which ends
with the process however that ends.
"""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from filelock import lock_descriptor

from headkv.errors import UserError
from headkv.records import Example, shorten
from headkv.storage.atomic import _write, allow_many_files, cannot_write
from headkv.storage.lines import read_lines
from headkv.storage.shards import Shard, parts

DEFAULTS = ("corrected", "kv_head", "prompt")
PROMPT_CHARS = 6000  # of a prompt, beside the answers


class Row(Protocol):
    """What a result file takes: `Result`, `Failure`, and rows of other kinds of run."""

    @property
    def id(self) -> str:
        """Of the example."""

    @property
    def run_key(self) -> str:
        """`<cell>-<example>`."""

    def as_row(self) -> dict[str, Any]:
        """The JSON object."""


def cell_path(
    folder: Path,
    method: str,
    kv_size: int | None,
    task: str,
    protocol: str,
    granularity: str,
    compress_on: str = "prompt",
) -> Path:
    """Where the rows of one task under one method and size go.

    Args:
        folder: `<output_dir>/<benchmark>/<model>`.
        method: its name.
        kv_size: None for the full cache.
        task: its name.
        protocol: other than the default ones, protocol and granularity are part of the file's
            name, so that two never share one.
        granularity: `kv_head` or `query_head`.
        compress_on: `prompt` or `context`; likewise.
    """
    variant = ""
    if (protocol, granularity, compress_on) != DEFAULTS:
        variant = f"@{protocol}-{granularity}" + ("-context" if compress_on == "context" else "")
    size = "full" if kv_size is None else str(kv_size)
    return folder / method / size / f"{task}{variant}.jsonl"


class ResultFile:
    """The rows of one task under one method and size, or of one shard of it.

    Args:
        path: from `cell_path`; nothing is written before the first `append`.
        cell_key: hash of everything but the example that changes the output.
        shard: writes a file of its own; the rows of all shards count as done.

    Attributes:
        path: of the file written to.
        foreign: rows of other settings, which stay as they are.

    Raises:
        UserError: a line before the last cannot be read.
    """

    def __init__(self, path: Path, cell_key: str, shard: Shard | None = None) -> None:
        self.cell, self.cell_key = path, cell_key
        self.path = path if shard is None else shard.path(path)
        self._file: io.FileIO | None = None
        self._scan()

    def key(self, example_key: str) -> str:
        """The `run_key` of an example's row in this file."""
        return f"{self.cell_key}-{example_key}"

    def has(self, id: str, example_key: str) -> bool:
        """Whether the example has been answered under exactly these settings."""
        return (id, self.key(example_key)) in self._done

    def lock(self) -> None:
        """Keeps other processes from writing the file for as long as this one lives.

        A file that is not there yet is locked by the first `append`.

        Raises:
            UserError: another process writes it, or it cannot be written.
        """
        if self._file is None and self.path.exists():
            self._open()

    def append(self, row: Row, again: bool = False) -> None:
        """Writes one row and flushes it.

        Args:
            row: an answer that is there already is left alone,
            again: unless it is to be written once more.

        Raises:
            UserError: another process writes the file, the folder cannot be written or the disk is
                full; rows before stay intact.
        """
        file = self._file or self._open()
        if (row.id, row.run_key) in self._done and not again:
            return
        content = row.as_row()
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        try:
            _write(file, self._whole, line)
        except OSError as problem:
            raise cannot_write(self.path, problem, "output_dir=") from problem
        self._whole += len(line)
        if "error" not in content:
            self._done.add((row.id, row.run_key))

    def close(self) -> None:
        """Lets other processes write the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> io.FileIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            allow_many_files()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            file = io.FileIO(descriptor, "r+")
            free = lock_descriptor(descriptor, blocking=False)
        except OSError as problem:
            raise cannot_write(self.path, problem, "output_dir=") from problem
        if not free:
            file.close()
            raise UserError(
                f"another process is writing {self.path}",
                allowed="one process a file",
                do="wait for it, or share the examples out: shard=0/2 and shard=1/2",
            )
        self._scan()  # it may have written since
        self._file = file
        return file

    def _scan(self) -> None:
        """What is there."""
        self.foreign, self._whole = 0, 0
        self._done: set[tuple[str, str]] = set()
        for path in parts(self.cell):
            for line in read_lines(path):
                if line.torn:
                    break
                if path == self.path:
                    self._whole += len(line.raw)
                if line.row is None:
                    raise UserError(
                        f"{path}, line {line.number} is not a result",
                        allowed="one JSON object a line, with id and run_key",
                        do="look at it, then remove it: python -m headkv.results gc FOLDER",
                    )
                if line.cell_key != self.cell_key:
                    self.foreign += 1
                elif not line.failed:
                    self._done.add(line.key)


def save_prompts(path: Path, examples: Iterable[Example]) -> None:
    """Adds what was asked, each example once, for people to read beside the answers.

    Args:
        path: of the prompts of a benchmark and model.
        examples: the middle of their prompts is left out where they are long.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    rows = [(each.task, each.id, shorten(each.prompt, PROMPT_CHARS)) for each in examples]
    keys = ("task", "id", "prompt")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            there = file.read()
            known = set(there.splitlines())
            lines = [
                json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False).encode()
                for row in rows
            ]
            new = b"".join(line + b"\n" for line in lines if line not in known)
            file.write(new if there.endswith(b"\n") or not there else b"\n" + new)
    except OSError as problem:
        raise cannot_write(path, problem, "output_dir=") from problem
