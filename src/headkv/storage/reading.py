"""Reading JSON that anybody may have written, damaged or meant ill: one way for every file."""

from pathlib import Path
from typing import Any

from pydantic_core import from_json

from headkv.errors import UserError
from headkv.storage.faults import fault
from headkv.storage.schemas import Schema

MOST_BYTES = 2**31
"""A larger file is none of ours."""


def parse(raw: bytes) -> Any:
    """Returns what JSON says; nothing else is ever raised, however deep or odd it is.

    Raises:
        ValueError: not JSON or not UTF-8, nested too deep, or numbers too long.
    """
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it begins with a byte-order mark: save it as UTF-8 without one")
    return from_json(raw, allow_inf_nan=False)


def read_bytes(path: Path | str, what: str, *, allowed: str, do: str) -> bytes:
    """Reads a file.

    Args:
        path: the file.
        what: its kind, for the message.
        allowed: what would do, for the message.
        do: what to do about it, for the message.

    Raises:
        UserError: it is not there, a folder or a device, unreadable or too large.
    """
    try:
        path = Path(path)
        if path.exists() and not path.is_file():
            raise IsADirectoryError("a folder or device where a file is wanted")
        if path.stat().st_size > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES >> 20:,} MB")
        return path.read_bytes()
    except (OSError, ValueError, TypeError) as problem:  # NUL in the name; no name
        reason = getattr(problem, "strerror", None) or str(problem)
        raise UserError(
            f"cannot read {what} {_end(path)}: {reason}", allowed=allowed, do=do
        ) from problem


def read_json(path: Path | str, schema: Schema, what: str, *, allowed: str, do: str) -> Any:
    """Reads a JSON file of a kind; arguments as `read_bytes`.

    Args:
        path: the file.
        schema: of its kind.
        what: its kind, for the message.
        allowed: what would do, for the message.
        do: what to do about it, for the message.

    Raises:
        UserError: it cannot be read, is no JSON, or does not fit the schema.
    """
    raw = read_bytes(path, what, allowed=allowed, do=do)
    try:
        content = parse(raw)
        reason = fault(schema, content)
    except ValueError as problem:
        reason = str(problem)
    if reason:
        said = f"cannot read {what} {_end(path)}: "
        room = 270 - len(said) - len(allowed) - len(do)  # a line has 300 characters
        raise UserError(said + reason[: max(room, 20)], allowed=allowed, do=do)
    return content


def _end(path: Path | str) -> str:
    """A path for a message, of a long one its end."""
    text = str(path)
    return text if len(text) <= 70 else f"...{text[-67:]}"


def read_if_sound(path: Path, schema: Schema) -> tuple[Any, str]:
    """Returns the content of a file and an empty text, or None and what is wrong with it.

    Args:
        path: the file.
        schema: of its kind.
    """
    try:
        return read_json(path, schema, path.name, allowed="", do=""), ""
    except UserError as problem:
        return None, problem.what.removeprefix(f"cannot read {path.name} {_end(path)}: ")
