"""Who ran what, where, when: `run.json`."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headkv.config import ROOT
from headkv.storage.atomic import write_json
from headkv.storage.keys import digest

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "datasets", "rouge-score")
"""Packages whose versions a record states, besides Python's."""


def describe(config: Any) -> dict[str, Any]:
    """Returns everything about a run that is known before it starts.

    Args:
        config: the run's settings, as JSON can hold them.
    """
    import torch  # here, so that results are read and looked after without it

    return {
        "command": [_script(sys.argv[0]), *sys.argv[1:]],
        "config": config,
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "started": now(),
    }


def _script(given: str) -> str:
    """A script of the checkout, from there: `python -m` names where it lies on the disk."""
    path = Path(given)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else given


def save(folder: Path, record: dict[str, Any]) -> None:
    """Writes a run's record: the newest as `run.json`, every one under `runs/`.

    Args:
        folder: `<output_dir>/<benchmark>/<model>`.
        record: from `describe`, with what the run has found out since.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    name = f"{record['started'].replace(':', '')}-{digest(record['config'], 6)}.json"
    write_json(folder / "runs" / name, record)
    write_json(folder / "run.json", record)


def now() -> str:
    """Returns the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """What git says of the checkout; None where there is none, or no git."""
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
