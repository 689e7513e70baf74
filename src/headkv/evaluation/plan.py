"""What a run is asked: a line an example, small enough that all of them are in memory at once.

The examples themselves are built when their turn comes and dropped when they are answered: prompts
of 128k tokens, thousands of them, would fill any memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headkv.records import Example

Name = tuple[str, str]
"""Task and id of an example."""
Missing = tuple[Example, tuple[int, ...]]
"""An example, and the indices of the cells that have not answered it."""


@dataclass(frozen=True)
class Asked:
    """One example that is asked for.

    Attributes:
        task: its task.
        id: its id.
        key: hash of what it asks, from `headkv.evaluation.cell_files.example_key`.
        chars: length of its prompt.
        max_new_tokens: most tokens of its answer.
        cells: indices of the cells that have not answered it.
    """

    task: str
    id: str
    key: str
    chars: int
    max_new_tokens: int
    cells: tuple[int, ...]

    @property
    def name(self) -> Name:
        """Task and id."""
        return self.task, self.id


@dataclass(frozen=True)
class Work:
    """All that is asked, and what of it is missing.

    Attributes:
        asked: every example of this shard.
    """

    asked: Sequence[Asked] = field(default_factory=list)

    @property
    def missing(self) -> list[Asked]:
        """Those that some cell has yet to answer."""
        return [each for each in self.asked if each.cells]

    def __len__(self) -> int:
        return len(self.missing)
