"""Shards: n processes share a run's examples out, each writing files of its own.

A cell's file `single.jsonl` becomes `single.shard-0-of-4.jsonl` and so on. Whoever reads a cell
reads all of them, so a run may go on with another number of shards, or with none.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headkv.errors import UserError

_NAME = re.compile(r"(?P<cell>.+)\.shard-\d+-of-\d+")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a run.

    Attributes:
        index: which part, from 0.
        count: how many parts there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, given: object) -> "Shard | None":
        """Reads the `shard=` key.

        Args:
            given: `i/n` with i from 0 to n - 1, or None for the whole run.

        Raises:
            UserError: anything else was given.
        """
        if given is None:
            return None
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(given))
        if found is None or int(found[1]) >= int(found[2]):
            raise UserError(
                f"shard={given}", allowed="0/n to n-1/n, e.g. 0/4 to 3/4", do="change shard="
            )
        return cls(int(found[1]), int(found[2]))

    def take(self, items: Sequence[_Item], name: Callable[[_Item], str]) -> list[_Item]:
        """Returns this shard's part of the items, in their order.

        Shards have the same number of items, give or take one. They are dealt out in the order of
        a hash of their names: benchmarks go round tasks and lengths, and every n-th example as it
        comes may well be one task's, or the long ones.

        Args:
            items: everything that all shards together have.
            name: gives an item's name, the same in every process.
        """
        mixed = sorted(range(len(items)), key=lambda place: (_hash(name(items[place])), place))
        return [items[place] for place in sorted(mixed[self.index :: self.count])]

    def path(self, cell: Path) -> Path:
        """Returns this shard's file of a cell."""
        return cell.with_name(f"{cell.stem}.shard-{self.index}-of-{self.count}{cell.suffix}")


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def cell_of(path: Path) -> Path:
    """Returns the cell's own file for a file that may be one of its shards."""
    found = _NAME.fullmatch(path.stem)
    return path.with_name(found["cell"] + path.suffix) if found else path


def by_cell(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Groups files by cell.

    Returns:
        The cell's own file -> the files it consists of, the one written last at the end.
    """
    found: dict[Path, list[Path]] = {}
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        found.setdefault(cell_of(path), []).append(path)
    return dict(sorted(found.items()))


def parts(cell: Path) -> list[Path]:
    """Returns the files that a cell consists of, in the order of `by_cell`."""
    candidates = [cell, *cell.parent.glob(f"*{cell.suffix}")]
    own = {path for path in candidates if cell_of(path) == cell and path.exists()}
    return by_cell(own).get(cell, [])
