"""Shards into one file a cell, and folders copied from several machines into one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from headkv.errors import UserError
from headkv.results.rewrite import SETTING, held, replace
from headkv.storage.atomic import write_bytes
from headkv.storage.lines import Line
from headkv.storage.reading import read_bytes, read_if_sound
from headkv.storage.schemas import RUN_RECORD
from headkv.storage.shards import parts
from headkv.storage.tree import CellFiles, cells, result_files


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        cells: how many cells were put together.
        rows: how many rows these cells hold now.
        doubled: how many lines were left out, being there already or torn.
    """

    cells: int
    rows: int
    doubled: int


def merge(target: Path, sources: Sequence[Path]) -> Merged:
    """Joins the shards of every cell of a folder, and the rows of other folders with them.

    Nothing is written unless everything fits. The sources stay as they are.

    Args:
        target: the results folder that holds everything afterwards; need not be there yet.
        sources: other results folders.

    Returns:
        How much was put together.

    Raises:
        UserError: two answers to the same question under the same settings differ, folders hold a
            cell under different settings, a line cannot be read, or a run is writing.
    """
    for source in sources:
        if source.resolve() == target.resolve():
            raise UserError(f"{source} is the target", allowed="other folders", do="leave it out")
    found: dict[str, list[CellFiles]] = {}
    for root in ([target] if not sources or result_files(target) else []) + list(sources):
        for cell in cells(root):
            found.setdefault(cell.name, []).append(cell)
    work = {name: group for name, group in found.items() if _is_work(target, group)}
    with ExitStack() as stack:
        for group in work.values():
            stack.enter_context(held(parts(target / group[0].name)))
        joined = {name: _join(group) for name, group in work.items()}
        for name, lines in joined.items():
            path = target / name
            replace(path, [line.whole for line in lines], parts(path))
        for source in sources:
            _copy_records(source, target)
    total = sum(len(cell.lines) for group in work.values() for cell in group)
    rows = sum(map(len, joined.values()))
    return Merged(len(work), rows, total - rows)


def _is_work(target: Path, group: list[CellFiles]) -> bool:
    """Whether a cell is not yet one file in its place."""
    return len(group) > 1 or group[0].root != target or group[0].files != (group[0].path,)


def _join(group: list[CellFiles]) -> list[Line]:
    """The lines of a cell, each answer once and no failure that was answered since."""
    keys = [set(cell.keys) for cell in group if cell.keys]
    if any(other != keys[0] for other in keys[1:]):
        known = "; ".join(f"{cell.root}: {', '.join(cell.keys)}" for cell in group)
        raise UserError(
            f"{group[0].name} was run with different settings ({known})",
            allowed="folders of the same settings",
            do="see `ls` and run.json, drop older settings with `gc`, or merge them apart",
        )
    lines: list[Line] = []
    answers: dict[tuple[str, str], Line] = {}
    for cell in group:
        for path, line in cell.lines:
            if line.torn:
                continue
            if line.row is None:
                raise UserError(
                    f"{path}, line {line.number} is not a result{line.why}",
                    allowed="whole rows",
                    do="run gc",
                )
            before = answers.get(line.key)
            if line.failed or before is None:
                lines.append(line)
            elif _answer(before) != _answer(line):
                raise UserError(
                    f"{path}, line {line.number}: another answer to {line.key[0]} under the same "
                    f"settings: {line.row.get('prediction')!r}, not "
                    f"{(before.row or {}).get('prediction')!r}",
                    allowed="the same rows",
                    do="keep one of the two files",
                )
            if not line.failed:
                answers.setdefault(line.key, line)
    return [line for line in lines if not line.failed or line.key not in answers]


def _answer(line: Line) -> dict[str, object]:
    """What two machines must agree about."""
    row = line.row or {}
    return {name: row.get(name) for name in ("prediction", "score", "kept_tokens", "prompt_tokens")}


def _copy_records(source: Path, target: Path) -> None:
    """`runs/*.json` of a source, and its `run.json`, where the target has none of use."""
    for path in [*source.glob("*/*/runs/*.json"), *source.glob("*/*/run.json")]:
        place = target / path.relative_to(source)
        if read_if_sound(place, RUN_RECORD)[0] is None and path.is_file():
            do = "move it away, or let yourself read it"
            write_bytes(place, read_bytes(path, "record", allowed="a file", do=do), SETTING)
