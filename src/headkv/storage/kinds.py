"""Which kind of file lies where, and what is wrong with one."""

from collections.abc import Iterator
from pathlib import Path

from headkv.errors import UserError
from headkv.storage.faults import fault, row_fault
from headkv.storage.lines import Line, read_lines
from headkv.storage.reading import read_if_sound
from headkv.storage.schemas import (
    CHOICES,
    HEAD_TEST,
    INSPECTION,
    LAYER_IMPORTANCE,
    PROMPT,
    RUN_RECORD,
    SCORE_FILE,
    TUNED,
    Schema,
)

PROMPTS = "prompts.ndjson"
"""Name of the file of what was asked."""
TESTS = ".tests.jsonl"
"""End of the name of a log of head tests."""
LINES = {PROMPTS: PROMPT, TESTS: HEAD_TEST}
"""End of a file's name -> schema of each of its lines."""
_WHOLE = {
    "*/*/run.json": RUN_RECORD,
    "*/*/runs/*.json": RUN_RECORD,
    "*/*/inspect/*.json": INSPECTION,
    "**/chosen.json": CHOICES,
    "tuning/*/*/settings.json": TUNED,
}


def side_files(root: Path) -> list[Path]:
    """Returns the files beside the rows: records, prompts, inspections, choices.

    Args:
        root: the results folder.
    """
    places = [*_WHOLE, f"*/*/{PROMPTS}"]
    return sorted({path for place in places for path in root.glob(place)})


def faults(path: Path) -> Iterator[str]:
    """Says what is wrong with a file of any kind but result files, a line of text for each.

    Args:
        path: the file; its name and content say its kind.
    """
    for end, schema in LINES.items():
        if path.name.endswith(end):
            yield from _line_faults(path, schema)
            return
    if path.suffix == ".jsonl":
        yield from _line_faults(path, None)
        return
    schema = _schema(path)
    _, reason = read_if_sound(path, schema)
    if reason:
        yield reason


def lines_of(path: Path, schema: Schema) -> list[Line]:
    """Returns the lines of a file that holds one object of a kind a line.

    Args:
        path: the file; none where it is not there.
        schema: of each line.

    Raises:
        UserError: the file cannot be read.
    """
    return read_lines(path, lambda row: fault(schema, row)) if path.exists() else []


def _line_faults(path: Path, schema: Schema | None) -> Iterator[str]:
    try:
        found = read_lines(path, row_fault) if schema is None else lines_of(path, schema)
    except UserError as problem:
        yield problem.what
        return
    for line in found:
        if line.torn:
            yield f"line {line.number}: half-written; the next run writes it again"
        elif line.row is None:
            yield f"line {line.number}: {line.misfit or 'no JSON'}"


def _schema(path: Path) -> Schema:
    for place, schema in _WHOLE.items():
        if path.match(place.removeprefix("**/")):
            return schema
    return LAYER_IMPORTANCE if path.parent.name == "layer_importance" else SCORE_FILE
