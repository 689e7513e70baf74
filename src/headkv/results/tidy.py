"""Finding and removing the lines of a results folder that no table takes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headkv.errors import UserError
from headkv.results.rewrite import held, replace
from headkv.storage.kinds import PROMPTS, faults, lines_of, side_files
from headkv.storage.schemas import PROMPT
from headkv.storage.tree import CellFiles, cells


@dataclass(frozen=True)
class Waste:
    """Lines of one file that can go.

    Attributes:
        path: the file.
        size: the file's bytes when it was read.
        keep: the file's other lines, each with its newline.
        why: reason -> how many lines go for it.
    """

    path: Path
    size: int
    keep: list[bytes]
    why: Counter[str]


def waste(root: Path) -> list[Waste]:
    """Returns the files that have lines that can go, and the empty ones.

    Args:
        root: the results folder.

    Raises:
        UserError: there are no results.
    """
    found = []
    for cell in cells(root):
        reasons = _reasons(cell)
        for path in cell.files:
            mine = [
                (line, why)
                for (at, line), why in zip(cell.lines, reasons, strict=True)
                if at == path
            ]
            why = Counter(reason for _, reason in mine if reason)
            if why or not mine:
                keep = [line.whole for line, reason in mine if not reason]
                size = sum(len(line.raw) for line, _ in mine)
                found.append(Waste(path, size, keep, why))
    return found + [each for path in side_files(root) if (each := _beside(path)) is not None]


def _beside(path: Path) -> Waste | None:
    """What can go of a file beside the rows; what a run once chose, and `run.json`, always stay."""
    if not path.is_file() or not next(faults(path), ""):
        return None
    if path.name == PROMPTS:
        lines = lines_of(path, PROMPT)
        keep = [line.whole for line in lines if line.row is not None]
        why = Counter({"unreadable": len(lines) - len(keep)})
        return Waste(path, path.stat().st_size, keep, why)
    if path.parent.name not in ("runs", "inspect"):
        return None
    return Waste(path, path.stat().st_size, [], Counter({"unreadable": 1}))


def partials(root: Path) -> list[Path]:
    """Returns the files that were being written when their writer was killed."""
    return sorted(root.rglob("*.partial"))


def remove(found: list[Waste], leftovers: list[Path]) -> None:
    """Removes lines that can go and what killed writers left; files that are empty then go too.

    Args:
        found: files and their lines, from `waste`.
        leftovers: half-written files, from `partials`.

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
    """Why each line of a cell can go, in the order of its lines; empty where it stays."""
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
