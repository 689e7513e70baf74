"""What is wrong with the content of a file, in a few words."""

from typing import Any

from pydantic import ValidationError

from headkv.storage.schemas import ANSWER, FAILURE, LARGEST, MEASUREMENT, STREAMED, Schema


def fault(schema: Schema, content: Any) -> str:
    """What is wrong with content, in a few words; empty where it fits.

    Args:
        schema: of its kind of file.
        content: as JSON gives it.
    """
    try:
        schema.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if first["type"] == "missing":
            return f"{where} is missing"
        return f"{where or 'content'} is {_short(first['input'])}: {reason}"
    return ""


def row_fault(row: Any) -> str:
    """As `fault`, of a line of a result file: an answer, a failure, a measurement, a text read."""
    if isinstance(row, dict) and "error" in row:
        return fault(FAILURE, row)
    if isinstance(row, dict) and "perplexity" in row:
        return fault(STREAMED, row)
    measured = isinstance(row, dict) and isinstance(row.get("held_bytes"), dict)
    return fault(MEASUREMENT if measured else ANSWER, row)


def _short(value: Any) -> str:
    """The first characters of a value, however large it is."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number that large"
    text = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
