"""Head-score files: the published JSON shape, and ours, which adds a header.

Published: one object, key "layer-head", value the list of scores of the tests that counted; a
head's score is the mean. Ours: `{"header": {...}, "scores": {the same object}}`; the header says
which model, which tests and which versions. Torch is loaded only where a tensor is asked for:
reports read score files without it.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headkv.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "headkv-head-scores-1"
Lists = dict[tuple[int, int], list[float]]
_IDENTITY = [
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size",
]  # fmt: skip


def architecture_id(config: Any) -> str:
    """A short hash of the fields that fix a decoder's shape."""
    text = config.get_text_config(decoder=True)
    fields = {key: getattr(text, key, None) for key in _IDENTITY}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a score file; empty for the published shape."""
    return read_scores(path)[0]


def read_scores(path: str | Path) -> tuple[dict[str, Any], Lists]:
    """Header and every head's list of scores, by (layer, head).

    Args:
        path: a score file of either shape; the header of the published one is empty.

    Raises:
        UserError: no such file, or not a score file.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot read head scores {path}: {problem}",
            allowed='a JSON object of "layer-head" keys',
            do="set head_scores=FILE, or compute one: make heads MODEL=...",
        ) from problem
    try:
        header, given = {}, content
        if "header" in content:
            header, given = dict(content["header"]), content["scores"]
        lists = {}
        for key, values in given.items():
            layer, head = key.split("-")
            lists[int(layer), int(head)] = [float(value) for value in values]
        if not lists:
            raise ValueError("no scores in it")
        if not all(math.isfinite(value) for values in lists.values() for value in values):
            raise ValueError("scores that are no finite numbers")
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise UserError(
            f"{path} is not a head-score file: {problem}",
            allowed='a JSON object of "layer-head": [scores]',
            do="set head_scores= to such a file",
        ) from problem
    return header, lists


def mean_scores(path: str | Path, lists: Lists) -> NDArray[np.float64]:
    """Each head's mean over its tests, `[layer, query_head]`.

    Args:
        path: the file's name, for messages.
        lists: from `read_scores`.

    Raises:
        UserError: heads are missing.
    """
    layers, heads = (1 + max(key[axis] for key in lists) for axis in (0, 1))
    if len(lists) != layers * heads:
        raise UserError(
            f"{path} has scores for {len(lists)} heads, {layers} layers x {heads} heads",
            allowed="a score for every head",
            do="set head_scores= to a whole file",
        )
    table = np.zeros((layers, heads))
    for key, values in lists.items():
        table[key] = sum(values) / max(len(values), 1)
    return table


def load_head_scores(path: str | Path, config: Any, *, allow_foreign: bool = False) -> "Tensor":
    """Scores of every query head.

    Args:
        path: a score file of either shape.
        config: the model's config.
        allow_foreign: take scores whose header names a model of another architecture, if the
            numbers of layers and heads fit.

    Returns:
        float64 `[layer, query_head]`.

    Raises:
        UserError: no such file, not a score file, or scores of another model.
    """
    import torch

    header, lists = read_scores(path)
    check_shape(path, lists, config)
    if header.get("architecture") not in (None, architecture_id(config)) and not allow_foreign:
        raise UserError(
            f"{path} was computed on another model ({header.get('model')})",
            allowed="scores of this model",
            do="compute them: make heads MODEL=..., or set allow_foreign_scores=true",
        )
    return torch.from_numpy(mean_scores(path, lists))


def check_shape(path: str | Path, lists: Lists, config: Any) -> None:
    """Raises `UserError` unless there is a score for each of the model's heads."""
    text = config.get_text_config(decoder=True)
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
        path: where to.
        tests: `[layer, query_head]` for every test that counted.
        header: provenance; None writes the published shape.

    Raises:
        UserError: no test counted, or all scores are zero.
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
    """Writes lists of scores, by (layer, head), as they are; `header` as `save_head_scores`."""
    scores = {f"{layer}-{head}": values for (layer, head), values in lists.items()}
    content = {"header": header, "scores": scores} if header else scores
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=0 if header else None) + "\n")
    partial.replace(path)


def best_heads(table: NDArray[np.float64]) -> list[tuple[int, int]]:
    """All heads as (layer, head), the best first, of equal ones the earlier.

    Args:
        table: `[layer, query_head]`.
    """
    order = np.argsort(-table.ravel(), kind="stable")
    layers, heads = np.unravel_index(order, table.shape)
    return list(zip(layers.tolist(), heads.tolist(), strict=True))
