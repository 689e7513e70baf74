"""Finished tests of a head-score run, so that a killed one goes on where it stopped.

One JSON line a test in `<score file>.tests.jsonl`, flushed as it is finished. The score file, once
whole, takes its place.
"""

import json
from pathlib import Path

import torch

from headkv.calibration.head_finder import Measured
from headkv.storage.atomic import append_line


class HeadTestLog:
    """The finished tests of one score file.

    Lines of other settings or another model are neither read nor touched; a torn last line is cut
    off before the next one is written, and its test is run again.

    Args:
        target: the score file.
        key: hash of everything that changes a test's outcome.

    Attributes:
        done: finished tests by name.
    """

    def __init__(self, target: Path, key: str) -> None:
        self.path, self.key = target.with_name(target.name + ".tests.jsonl"), key
        self.done: dict[str, Measured] = {}
        self._whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []:
            if not line.endswith(b"\n"):
                break
            self._whole += len(line)
            row = json.loads(line)
            if row["key"] == key:
                scores = row["scores"]
                table = None if scores is None else torch.tensor(scores, dtype=torch.float64)
                test = Measured(row["name"], row["answer"], row["success"], table)
                self.done[test.name] = test

    def append(self, test: Measured) -> None:
        """Writes one test and flushes it; skipped if a test of its name is there.

        Args:
            test: the finished test.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        if test.name in self.done:
            return
        scores = None if test.scores is None else test.scores.tolist()
        row = {"key": self.key, "name": test.name, "answer": test.answer, "success": test.success}
        line = json.dumps({**row, "scores": scores}).encode() + b"\n"
        self._whole = append_line(self.path, self._whole, line, "output=")
        self.done[test.name] = test

    def remove(self) -> None:
        """Removes the log: there is nothing left to go on with."""
        self.path.unlink(missing_ok=True)
