"""Finished tests of a head-score run, so that a killed one goes on where it stopped.

One JSON line a test in `<score file>.tests.jsonl`, flushed as it is finished. The score file, once
whole, takes its place.
"""

import io
import json
from pathlib import Path

import torch

from headkv.calibration.head_finder import Measured
from headkv.errors import UserError
from headkv.storage.atomic import cannot_write, put_line
from headkv.storage.kinds import TESTS, lines_of
from headkv.storage.locks import open_locked
from headkv.storage.schemas import HEAD_TEST


class HeadTestLog:
    """The finished tests of one score file, which one process at a time writes.

    Lines of other settings or another model are neither read nor touched; a torn last line is cut
    off before the next one is written, and its test is run again.

    Args:
        target: the score file.
        key: hash of everything that changes a test's outcome.

    Attributes:
        done: finished tests by name.

    Raises:
        UserError: another process writes it, or a line before the last cannot be read.
    """

    def __init__(self, target: Path, key: str) -> None:
        self.path, self.key = target.with_name(target.name + TESTS), key
        self._file: io.FileIO | None = None
        self._whole, self._gap = 0, b""
        if self.path.exists():
            self._open()
        else:
            self.done: dict[str, Measured] = {}

    def append(self, test: Measured) -> None:
        """Writes one test and flushes it; skipped if a test of its name is there.

        Args:
            test: the finished test.

        Raises:
            UserError: another process writes the log, the folder cannot be written or the disk is
                full, or the scores are not finite.
        """
        file = self._file or self._open()
        if test.name in self.done:
            return
        if test.scores is not None and not bool(torch.isfinite(test.scores).all()):
            raise UserError(
                f"head scores of test {test.name} that are not finite",
                allowed="finite numbers",
                do="load the model in a wider dtype: model.dtype=float32",
            )
        scores = None if test.scores is None else test.scores.tolist()
        row = {"key": self.key, "name": test.name, "answer": test.answer, "success": test.success}
        line = self._gap + json.dumps({**row, "scores": scores}).encode() + b"\n"
        try:
            put_line(file, self._whole, line)
        except OSError as problem:
            raise cannot_write(self.path, problem, "output=") from problem
        self._whole += len(line)
        self._gap = b""
        self.done[test.name] = test

    def remove(self) -> None:
        """Removes the log: there is nothing left to go on with."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Lets other processes write the log."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> io.FileIO:
        """Opens and locks the log and reads what is there."""
        file = open_locked(self.path, "output=", "wait for it, or set output= to another file")
        try:
            self._scan()
        except UserError:
            file.close()
            raise
        self._file = file
        return file

    def _scan(self) -> None:
        self.done, self._whole, self._gap = {}, 0, b""
        for line in lines_of(self.path, HEAD_TEST):
            if line.torn:
                break
            if line.row is None:
                raise UserError(
                    f"{self.path}, line {line.number} is not a head test{line.why}",
                    allowed="one JSON object a line",
                    do="remove that line, or move the file away: its tests are then run again",
                )
            self._whole += len(line.raw)
            self._gap = b"" if line.ended else b"\n"
            if line.row["key"] == self.key:
                scores = line.row["scores"]
                table = None if scores is None else torch.tensor(scores, dtype=torch.float64)
                test = Measured(line.row["name"], line.row["answer"], line.row["success"], table)
                self.done[test.name] = test
