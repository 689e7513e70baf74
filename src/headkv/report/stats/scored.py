"""Rows as arrays: the scores of each cell, example by example, lined up task by task.

Tests compare every cell with several others; looking examples up by name each time would take most
of a report's time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headkv.report.stats.intervals import Floats, Sample
from headkv.report.stats.summary import CELL, weights_of

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What one cell scored.

    Attributes:
        examples: numbers of the examples, ascending; the same in all cells of one table, and those
            of a task beside one another.
        tasks: number of each example's task.
        scores: 0 to 100.
        weights: of each example within its task.
        names: the tasks by number.
    """

    examples: Ints
    tasks: Ints
    scores: Floats
    weights: Floats
    names: tuple[str, ...]

    def of(self, task: str) -> "Scored":
        """The examples of one task."""
        mine = self.tasks == self.names.index(task)
        return self.at(np.flatnonzero(mine))

    def at(self, places: Ints) -> "Scored":
        """The examples at these places."""
        return Scored(
            self.examples[places],
            self.tasks[places],
            self.scores[places],
            self.weights[places],
            self.names,
        )

    def sample(self, scores: Floats | None = None) -> Sample:
        """Scores by task with their weights.

        Args:
            scores: others of the same examples; None: its own.
        """
        ends = np.flatnonzero(np.diff(self.tasks)) + 1
        scores = self.scores if scores is None else scores
        return Sample(np.split(scores, ends), np.split(self.weights, ends))


def scored(rows: pd.DataFrame) -> dict[Any, Scored]:
    """Every cell's scores, by its key in `CELL`.

    Args:
        rows: of one benchmark and model.
    """
    tasks, names = pd.factorize(rows["task"], sort=True)
    examples = rows.groupby(["task", "id"], sort=True).ngroup().to_numpy()
    scores = rows["score"].to_numpy(dtype=np.float64)
    weights = weights_of(rows).to_numpy(dtype=np.float64)
    found = {}
    for key, places in rows.groupby(CELL, dropna=False).indices.items():
        mine = places[np.argsort(examples[places], kind="stable")]
        name = tuple(None if pd.isna(part) else part for part in key)
        found[name] = Scored(
            examples[mine].astype(np.int64),
            tasks[mine].astype(np.int64),
            scores[mine],
            weights[mine],
            tuple(map(str, names)),
        )
    return found


def cell_key(line: Any) -> tuple[Any, ...]:
    """The key in `scored` of a line that has the columns of `CELL`."""
    return tuple(None if pd.isna(line[name]) else line[name] for name in CELL)
