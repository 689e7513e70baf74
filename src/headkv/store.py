"""Result files: append-only JSONL, one line an example, flushed as it is finished.

A line belongs to a run only if its `run_key` says so. A torn last line (the machine died while
writing) is cut off before the next one is written; its example is done again.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from headkv.errors import UserError
from headkv.records import Result

DEFAULTS = ("corrected", "kv_head", "prompt")


def digest(content: Any, length: int = 12) -> str:
    """A short hash of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


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
    """The rows of one task under one method and size.

    Args:
        path: from `cell_path`; nothing is written before the first `append`.
        cell_key: hash of everything but the example that changes the output.
    """

    def __init__(self, path: Path, cell_key: str) -> None:
        self.path, self.cell_key = path, cell_key
        self.foreign = 0
        self._done: set[tuple[str, str]] = set()
        self._whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if not line.endswith(b"\n"):
                break
            self._whole += len(line)
            row = json.loads(line)
            if row["run_key"].startswith(f"{cell_key}-"):
                self._done.add((row["id"], row["run_key"]))
            else:
                self.foreign += 1

    def key(self, example_key: str) -> str:
        """The `run_key` of an example's row in this file."""
        return f"{self.cell_key}-{example_key}"

    def has(self, id: str, example_key: str) -> bool:
        """Whether the example has been answered under exactly these settings."""
        return (id, self.key(example_key)) in self._done

    def append(self, result: Result) -> None:
        """Writes one row and flushes it.

        Raises:
            UserError: the folder cannot be written or the disk is full; rows before stay intact.
        """
        line = json.dumps(result.as_row(), ensure_ascii=False).encode() + b"\n"
        self._whole = append_line(self.path, self._whole, line, "output_dir=")
        self._done.add((result.id, result.run_key))


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
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.truncate(whole)
            file.seek(whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {problem.strerror}",
            allowed="a folder with free space that you may write to",
            do=f"free it or set {setting}, then run again: what is finished is kept",
        ) from problem
    return whole + len(line)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n")
    partial.replace(path)
