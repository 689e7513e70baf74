"""What of a results folder no table takes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headkv.errors import UserError
from headkv.storage.tree import CellFiles, cells
from headkv.results.rewrite import held, replace


@dataclass(frozen=True)
class Waste:
    """Lines of one file that can go.

    Attributes:
        path: the file.
        size: in bytes, as it was read.
        keep: its other lines, as they are.
        why: how many go, and for what reason.
    """

    path: Path
    size: int
    keep: list[bytes]
    why: Counter[str]


def waste(root: Path) -> list[Waste]:
    """Files with lines that can go, and empty ones.

    Raises:
        UserError: there are no results.
    """
    found = []
    for cell in cells(root):
        reasons = _reasons(cell)
        for path in cell.files:
            mine = [(line, why) for (at, line), why in zip(cell.lines, reasons, strict=True)
                    if at == path]  # fmt: skip
            why = Counter(reason for _, reason in mine if reason)
            if why or not mine:
                keep = [line.raw for line, reason in mine if not reason]
                size = sum(len(line.raw) for line, _ in mine)
                found.append(Waste(path, size, keep, why))
    return found


def partials(root: Path) -> list[Path]:
    """What was being written when its writer was killed."""
    return sorted(root.rglob("*.partial"))


def remove(found: list[Waste], leftovers: list[Path]) -> None:
    """Removes it; files that are empty then go too.

    Raises:
        UserError: a run is writing one of the files, or they cannot be written.
    """
    with held(each.path for each in found):
        for each in found:
            if each.path.stat().st_size != each.size:
                raise UserError(
                    f"{each.path} has changed", allowed="folders at rest", do="run gc again"
                )
        for each in found:
            replace(each.path, each.keep, [each.path])
        for path in leftovers:
            path.unlink(missing_ok=True)


def _reasons(cell: CellFiles) -> list[str]:
    """Why each line of a cell can go; empty where it stays."""
    reasons, seen = [], set()
    for _, line in cell.lines:
        if line.torn:
            reason = "half-written"
        elif line.row is None:
            reason = "unreadable"
        elif line.cell_key != cell.current:
            reason = "of other settings"
        elif line.failed:
            reason = "failed"
        elif line.key in seen:
            reason = "doubled"
        else:
            reason = ""
            seen.add(line.key)
        reasons.append(reason)
    return reasons
