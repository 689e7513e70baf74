"""Result files: append-only JSONL, one line an example, flushed as it is finished.

A line belongs to a run only if its `run_key` says so. A torn last line (the machine died while
writing) is cut off before the next one is written, and its example is answered again; a last line
that lacks only its newline counts and gets it. An example whose line has an `error` is answered
again too. One process at a time writes a file: it holds a lock on the file itself, which ends
with the process however that ends.
"""

import io
import json
from pathlib import Path
from typing import Any, Protocol

from headkv.errors import UserError
from headkv.records import Example, shorten
from headkv.storage.atomic import cannot_write, put_line
from headkv.storage.faults import row_fault
from headkv.storage.lines import read_lines
from headkv.storage.locks import open_locked
from headkv.storage.reading import parse
from headkv.storage.shards import Shard, parts

DEFAULTS = ("corrected", "kv_head", "prompt")
"""Protocol, granularity and `compress_on` that a file's name does not mention."""
PROMPT_CHARS = 6000
"""Characters of a prompt that are saved beside the answers."""


class Row(Protocol):
    """What a result file takes: `Result`, `Failure`, and rows of other kinds of run."""

    @property
    def id(self) -> str:
        """The example's id."""

    @property
    def run_key(self) -> str:
        """The key `<cell>-<example>` of everything that changes the row."""

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON object of the line."""


def cell_path(
    folder: Path,
    method: str,
    kv_size: int | None,
    task: str,
    protocol: str,
    granularity: str,
    compress_on: str = "prompt",
) -> Path:
    """Returns the file that the rows of one task under one method and size go to.

    Args:
        folder: `<output_dir>/<benchmark>/<model>`.
        method: the method's name.
        kv_size: mean tokens a stored head may keep; None for the full cache.
        task: the task's name.
        protocol: `corrected` or `paper`. What is not the default of protocol, granularity and
            `compress_on` is part of the file's name, so that two of them never share a file.
        granularity: `kv_head` or `query_head`.
        compress_on: `prompt` or `context`.
    """
    variant = ""
    if (protocol, granularity, compress_on) != DEFAULTS:
        variant = f"@{protocol}-{granularity}" + ("-context" if compress_on == "context" else "")
    size = "full" if kv_size is None else str(kv_size)
    return folder / method / size / f"{task}{variant}.jsonl"


class ResultFile:
    """The rows of one task under one method and size, or of one shard of it.

    Args:
        path: the cell's file, from `cell_path`; nothing is written before the first `append`.
        cell_key: hash of everything but the example that changes the output.
        shard: the part of the run that this process answers; it writes a file of its own, and the
            rows of all shards count as done.

    Attributes:
        path: the file written to.
        foreign: how many rows of other settings there are; they stay as they are.

    Raises:
        UserError: a line before the last cannot be read.
    """

    def __init__(self, path: Path, cell_key: str, shard: Shard | None = None) -> None:
        self.cell, self.cell_key = path, cell_key
        self.path = path if shard is None else shard.path(path)
        self._file: io.FileIO | None = None
        self._gap = b""  # the newline that the last row of this file lacks
        self._scan()

    def key(self, example_key: str) -> str:
        """Returns the `run_key` of an example's row in this file."""
        return f"{self.cell_key}-{example_key}"

    def has(self, id: str, example_key: str) -> bool:
        """Returns whether the example has been answered under exactly these settings."""
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
            row: the answer or failure; skipped if its id and run key are in the file.
            again: write it even then (a repeated measurement).

        Raises:
            UserError: another process writes the file, the folder cannot be written or the disk is
                full; rows before stay intact.
        """
        file = self._file or self._open()
        if (row.id, row.run_key) in self._done and not again:
            return
        content = row.as_row()
        # Half a surrogate pair is no text, and becomes "?".
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
        if reason := _fault(text):
            raise UserError(
                f"row {row.id} of {self.path} does not fit: {reason}",
                allowed="the columns of a result file",
                do="mend the benchmark or method that made it",
            )
        line = self._gap + text + b"\n"
        try:
            put_line(file, self._whole, line)
        except OSError as problem:
            raise cannot_write(self.path, problem, "output_dir=") from problem
        self._whole += len(line)
        self._gap = b""
        if "error" not in content:
            self._done.add((row.id, row.run_key))

    def close(self) -> None:
        """Lets other processes write the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> io.FileIO:
        """Opens and locks the file and reads what other processes have written since."""
        do = "wait for it, or share the examples out: shard=0/2 and shard=1/2"
        file = open_locked(self.path, "output_dir=", do)
        self._scan()  # it may have written since
        self._file = file
        return file

    def _scan(self) -> None:
        """Reads what is there: rows done, rows of other settings, and bytes of whole rows."""
        self.foreign, self._whole = 0, 0
        self._gap = b""
        self._done: set[tuple[str, str]] = set()
        for path in parts(self.cell):
            for line in read_lines(path):
                if line.torn:
                    break
                if path == self.path:
                    self._whole += len(line.raw)
                    self._gap = b"" if line.ended else b"\n"
                if line.row is None and line.keyed:  # no table takes it: it is answered again
                    self.foreign += 1
                elif line.row is None:
                    raise UserError(
                        f"{path}, line {line.number} is not a result{line.why}",
                        allowed="one JSON object a line, with id and run_key",
                        do="look at it, then remove it: headkv results gc FOLDER",
                    )
                elif line.cell_key != self.cell_key:
                    self.foreign += 1
                elif not line.failed:
                    self._done.add(line.key)


def _fault(line: bytes) -> str:
    """What is wrong with a line that is about to be written."""
    try:
        return row_fault(parse(line))
    except ValueError as problem:
        return str(problem)


class PromptFile:
    """What was asked, each example once, for people to read beside the answers.

    Written as the run goes, so that a stopped run's answers can be looked at too.

    Args:
        path: the file of the prompts of a benchmark and model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[int] | None = None  # hashes of lines: prompts may be many and long

    def add(self, example: Example) -> None:
        """Adds an example that is not there yet.

        Args:
            example: what was asked; the middle of a prompt longer than `PROMPT_CHARS` is left out.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        row = {"task": example.task, "id": example.id}
        row |= {"prompt": shorten(example.prompt, PROMPT_CHARS)}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")
        try:
            if self._known is None:
                self._known = self._read()
            if hash(line) not in self._known:
                with open(self.path, "ab") as file:
                    file.write(line + b"\n")
                self._known.add(hash(line))
        except OSError as problem:
            raise cannot_write(self.path, problem, "output_dir=") from problem

    def _read(self) -> set[int]:
        """Hashes of the lines that are there; a torn last one gets its end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(0)
            line, known = b"\n", set()
            for line in file:
                known.add(hash(line.rstrip(b"\n")))
            if not line.endswith(b"\n"):
                file.write(b"\n")
        return known
