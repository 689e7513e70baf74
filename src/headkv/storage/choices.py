"""Files of what was chosen on a validation part, by what a choice holds for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headkv.storage.atomic import write_json
from headkv.storage.locks import waiting
from headkv.storage.reading import read_json
from headkv.storage.schemas import Schema


def read_choices(path: Path, schema: Schema, what: str) -> dict[str, Any]:
    """Reads choices; none where there is no file.

    Args:
        path: the file.
        schema: of its kind.
        what: its kind, for messages.

    Raises:
        UserError: it cannot be read, or is another kind of file.
    """
    if not path.exists():
        return {}
    found: dict[str, Any] = read_json(
        path,
        schema,
        what,
        allowed="the file that a run which chooses wrote",
        do="move it away and choose again",
    )
    return found


def add_choices(path: Path, entries: Mapping[str, Any], schema: Schema, what: str) -> None:
    """Adds choices to those that are there, in place of earlier ones of the same key.

    Args:
        path: the file; other processes wait.
        entries: by key.
        schema: of its kind.
        what: its kind, for messages.

    Raises:
        UserError: it cannot be written, or what is there cannot be read.
    """
    with waiting(path, "output_dir="):
        write_json(path, {**read_choices(path, schema, what), **entries})
