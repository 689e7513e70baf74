"""Who ran what, where, when: `run.json`."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headkv.config import ROOT
from headkv.storage.atomic import write_json
from headkv.storage.keys import digest

_PACKAGES = ["torch", "transformers", "tokenizers", "numpy", "datasets", "rouge-score"]


def describe(config: Any) -> dict[str, Any]:
    """Everything about the run that is known before it starts."""
    return {
        "command": sys.argv,
        "config": config,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
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


def save(folder: Path, record: dict[str, Any]) -> None:
    """Writes the run's record: the newest as `run.json`, every one under `runs/`."""
    name = f"{record['started'].replace(':', '')}-{digest(record['config'], 6)}.json"
    write_json(folder / "runs" / name, record)
    write_json(folder / "run.json", record)


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*words: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
