"""Head-score files: the published JSON shape, and ours, which adds a header.

Published: one object, key "layer-head", value the list of scores of the tests that counted; a
head's score is the mean. Ours: `{"header": {...}, "scores": {the same object}}`; the header says
which model, which tests and which versions. Torch is loaded only where a tensor is asked for:
reports read score files without it.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headkv.config import ROOT
from headkv.errors import UserError
from headkv.records import text_config
from headkv.storage.atomic import write_bytes
from headkv.storage.measured import find_measured
from headkv.storage.reading import read_json
from headkv.storage.schemas import SCORE_FILE

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "headkv-head-scores-1"
Lists = dict[tuple[int, int], list[float]]
"""(layer, query head) -> the scores of the tests that counted."""

IDENTITY = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
"""Fields of a config that fix a decoder's shape."""


def architecture_id(config: Any) -> str:
    """Returns a short hash of the fields that fix a decoder's shape.

    Args:
        config: a transformers config.

    Raises:
        UserError: what was given is no config.
    """
    text = text_config(config)
    fields = {key: getattr(text, key, None) for key in IDENTITY}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def default_head_scores(model_name: str, label: str) -> Path:
    """Returns the file that `make heads` writes and that runs find by themselves.

    Args:
        model_name: the name in the model's yaml.
        label: the kind of scores, or what an ablation calls them.
    """
    return ROOT / "data" / "head_scores" / f"{model_name}_{label}.json"


def find_head_scores(
    model_name: str, kind: str, data_dir: Path | None = None, spec_path: str | None = None
) -> Path | None:
    """Finds a model's score file of one kind.

    The file is `<model>_<kind>.json` as `make heads` writes it, in `data_dir` or where
    `headkv.storage.measured` says, else the one that the model's yaml names.

    Args:
        model_name: the name in the model's yaml.
        kind: `retrieval`, `retrieval_reasoning` or `semantic`.
        data_dir: the user's data.
        spec_path: what the model's yaml names, relative to the checkout.

    Returns:
        The file. One that `spec_path` names is returned even if it is nowhere, so that reading it
        says so; None if nothing was named and no file is there.
    """
    return find_measured("head_scores", f"{model_name}_{kind}.json", data_dir, spec_path)


def read_scores(path: str | Path) -> tuple[dict[str, Any], Lists]:
    """Reads the header and every head's list of scores.

    Args:
        path: a score file of either shape.

    Returns:
        The header, empty for the published shape, and the lists by (layer, head).

    Raises:
        UserError: no such file, or not a score file.
    """
    about = {
        "allowed": 'a JSON object of "layer-head": [finite numbers]',
        "do": "set head_scores=FILE, or compute one: make heads MODEL=...",
    }
    content = read_json(path, SCORE_FILE, "head scores", **about)
    header, given = {}, content
    if "header" in content:
        header, given = content["header"], content["scores"]
    lists = {}
    for key, values in given.items():
        layer, head = key.split("-")
        lists[int(layer), int(head)] = [float(value) for value in values]
    return header, lists


def mean_scores(lists: Lists) -> NDArray[np.float64]:
    """Returns each head's mean over its tests, float64 `[layer, query_head]`.

    Args:
        lists: every head's scores, from `read_scores`.
    """
    layers, heads = (1 + max(key[axis] for key in lists) for axis in (0, 1))
    table = np.zeros((layers, heads))
    for key, values in lists.items():
        table[key] = sum(values) / max(len(values), 1)
    return table


def load_head_scores(
    path: str | Path, config: Any = None, *, kind: str | None = None, allow_foreign: bool = False
) -> "Tensor":
    """Loads the score of every query head.

    Args:
        path: a score file of either shape.
        config: the config of the model that is to be compressed, `model.config`.
        kind: the kind of scores that is wanted, compared with the header's; None: any. A
            published file does not say its kind and is taken for what is wanted.
        allow_foreign: take scores whose header names a model of another architecture, if the
            numbers of layers and heads fit.

    Returns:
        float64 `[layer, query_head]`.

    Raises:
        UserError: no such file, not a score file, scores of another kind or of another model, or
            no config.
    """
    import torch  # here, so that reports read score files without it

    header, lists = read_scores(path)
    check_shape(path, lists, config)
    if kind is not None and header.get("kind") not in (None, kind):
        raise UserError(
            f"{path} has {header['kind']} head scores where {kind} ones are wanted",
            allowed=f"a file of kind {kind}",
            do="compute one: make heads MODEL=..., or set head_scores= to another file",
        )
    if header.get("architecture") not in (None, architecture_id(config)) and not allow_foreign:
        raise UserError(
            f"{path} was computed on another model ({header.get('model')})",
            allowed="scores of this model",
            do="compute them: make heads MODEL=..., or set allow_foreign_scores=true",
        )
    return torch.from_numpy(mean_scores(lists))


def check_shape(path: str | Path, lists: Lists, config: Any) -> None:
    """Checks that there is a score for each of the model's heads.

    Args:
        path: the file's name, for messages.
        lists: every head's scores, from `read_scores`.
        config: the model's config.

    Raises:
        UserError: heads are missing, or there are others than the model's.
    """
    text = text_config(config)
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    shape = (1 + max(key[0] for key in lists), 1 + max(key[1] for key in lists))
    if shape != (layers, heads) or len(lists) != layers * heads:
        raise UserError(
            f"{path} has scores for {len(lists)} heads, {shape[0]} layers x {shape[1]} heads",
            allowed=f"{layers} layers x {heads} heads, this model's",
            do="set head_scores= to a file of this model, or compute one: make heads MODEL=...",
        )


def save_head_scores(
    path: str | Path, tests: list["Tensor"], header: dict[str, Any] | None = None
) -> None:
    """Writes a score file, whole or not at all.

    Args:
        path: the file.
        tests: `[layer, query_head]` for every test that counted.
        header: provenance: model, architecture, kind, tests; None writes the published shape.

    Raises:
        UserError: no test counted, all scores are zero, or the folder cannot be written.
    """
    if not any(bool((test > 0).any()) for test in tests):
        raise UserError(
            f"no head scored above zero in {len(tests)} tests that counted",
            allowed="at least one test that the model answers",
            do="set tests.teacher_forcing=true, shorter tests.lengths= or another model=",
        )
    values = np.stack([test.tolist() for test in tests], axis=-1)
    lists = {
        (layer, head): [float(f"{value:.6g}") for value in values[layer, head]]
        for layer, head in np.ndindex(*values.shape[:2])
    }
    write_scores(path, lists, header)


def write_scores(path: str | Path, lists: Lists, header: dict[str, Any] | None = None) -> None:
    """Writes lists of scores as they are, whole or not at all.

    Args:
        path: the file.
        lists: every head's scores by (layer, head).
        header: as `save_head_scores` takes it.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    scores = {f"{layer}-{head}": values for (layer, head), values in lists.items()}
    content = {"header": header, "scores": scores} if header else scores
    text = json.dumps(content, indent=0 if header else None) + "\n"
    write_bytes(Path(path), text.encode(), "output=")


def best_heads(table: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Returns all heads as (layer, head), the best first, of equal ones the earlier.

    Args:
        table: `[layer, query_head]`.
    """
    order = np.argsort(-table.ravel(), kind="stable")
    layers, heads = np.unravel_index(order, table.shape)
    return list(zip(layers.tolist(), heads.tolist(), strict=True))
