"""Models and data sets of the Hugging Face hub: downloaded if it answers, else from its cache."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

# Whichever httpx the installed hub uses, its errors derive from this one.
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # type: ignore[attr-defined]

from headkv.downloads.cached import first_line
from headkv.errors import UserError

PROBE_SECONDS = 5.0
"""Longest wait for each answer of the hub."""
DEADLINE_SECONDS = 8.0
"""Longest wait for the hub in all, the look-up of its name included."""


def hub_folder(repo: str) -> Path:
    """Returns the folder of a hub model, downloaded if the hub answers, cached if it does not.

    Args:
        repo: `owner/name` of the model.

    Raises:
        UserError: no access, or neither reachable nor cached.
    """
    wanted: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
        # The same weights once more, in another layout.
        "ignore_patterns": ["consolidated*", "original/*"],
    }
    # Asked first, because the download retries for minutes when the hub does not answer.
    problem = unreachable(lambda: HfApi().model_info(repo, timeout=PROBE_SECONDS))
    if problem is None:
        try:
            return Path(snapshot_download(repo, **wanted))
        except (OSError, HTTPError, ValueError) as error:
            problem = error
    try:
        return Path(snapshot_download(repo, local_files_only=True, **wanted))
    except (OSError, ValueError) as error:
        access = isinstance(problem, RepositoryNotFoundError)
        raise UserError(
            f"{repo} is not cached and cannot be downloaded ({first_line(problem)})",
            allowed="a hub id that this machine can reach and may read, or a folder",
            do=f"accept the licence at https://huggingface.co/{repo} and set HF_TOKEN"
            if access
            else "copy the model here and set model.path=FOLDER, or use model=smollm2_135m",
        ) from error


def hub_file(repo: str, name: str, revision: str | None = None) -> Path:
    """Returns a file of a hub data set, downloaded if the hub answers, cached if it does not.

    Args:
        repo: `owner/name` of the data set.
        name: path of the file in it.
        revision: commit or branch; None: the newest.

    Raises:
        UserError: the hub does not answer within `DEADLINE_SECONDS`, or has no such file, and it
            is not in the hub's cache.
    """
    problem = unreachable(lambda: HfApi().dataset_info(repo, timeout=PROBE_SECONDS))
    try:
        found = hf_hub_download(
            repo,
            name,
            repo_type="dataset",
            revision=revision,
            local_files_only=problem is not None,
        )
    except (OSError, HTTPError, ValueError) as error:
        raise UserError(
            f"{name} of {repo} cannot be downloaded ({first_line(problem or error)})",
            allowed="the hub within reach",
            do=f"download it from https://huggingface.co/datasets/{repo}",
        ) from error
    return Path(found)


def unreachable(question: Callable[[], object]) -> Exception | None:
    """Returns why the hub does not answer a question; None if it does.

    Args:
        question: asks the hub; an error it raises is the reason, and so is no answer within
            `DEADLINE_SECONDS`.
    """
    problems: list[Exception] = [TimeoutError("the hub does not answer")]

    def ask() -> None:
        try:
            question()
            problems.clear()
        except (OSError, HTTPError, ValueError) as error:
            problems[:] = [error]

    # In a thread that nobody has to wait for: no timeout covers looking up the hub's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    return problems[0] if problems else None
