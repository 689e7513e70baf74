"""`settings.json`: what was chosen for each method and KV size, and everything that was tried.

One lies in `<output_dir>/tuning/<benchmark>/<model>/` for every benchmark that settings were chosen
on, and one in `<output_dir>/tuning/all/<model>/` for all of them together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headkv.storage.choices import add_choices, read_choices
from headkv.storage.schemas import TUNED

FOLDER = "tuning"
"""Folder of a results folder, beside the benchmarks'."""
ALL = "all"
"""What all benchmarks together are called there."""
_FILE = "settings.json"
_WHAT = "the chosen settings"


def tuned_file(output_dir: Path, benchmark: str, model: str) -> Path:
    """Where choices lie.

    Args:
        output_dir: the results folder.
        benchmark: its name; `ALL` for all together.
        model: its name.
    """
    return output_dir / FOLDER / benchmark / model / _FILE


def read_tuned(path: Path) -> dict[str, Any]:
    """Reads choices; none where there is no file.

    Args:
        path: of `tuned_file`.

    Raises:
        UserError: it cannot be read, or is another kind of file.
    """
    return read_choices(path, TUNED, _WHAT)


def add_tuned(path: Path, entries: Mapping[str, Any]) -> None:
    """Adds choices to those that are there, in place of earlier ones of the same key.

    Args:
        path: of `tuned_file`; other processes wait.
        entries: by key.

    Raises:
        UserError: it cannot be written, or what is there cannot be read.
    """
    add_choices(path, entries, TUNED, _WHAT)


def tuned_files(output_dir: Path) -> list[Path]:
    """All of a results folder, by benchmark and model."""
    return sorted(output_dir.glob(f"{FOLDER}/*/*/{_FILE}"))
