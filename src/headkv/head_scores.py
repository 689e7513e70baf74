"""Head-score files: the published JSON shape, and ours, which adds a header.

Published: one object, key "layer-head", value the list of scores of the tests that counted; a
head's score is the mean. Ours: `{"header": {...}, "scores": {the same object}}`; the header says
which model, which tests and which versions.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headkv.errors import UserError

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
    return _read(Path(path)).get("header", {})


def load_head_scores(path: str | Path, config: Any, *, allow_foreign: bool = False) -> Tensor:
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
    path = Path(path)
    content = _read(path)
    text = config.get_text_config(decoder=True)
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    lists = content.get("scores", content) if "header" in content else content
    scores = _parse(path, lists)
    shape = (1 + max(key[0] for key in scores), 1 + max(key[1] for key in scores))
    if shape != (layers, heads) or len(scores) != layers * heads:
        raise UserError(
            f"{path} has scores for {len(scores)} heads, {shape[0]} layers x {shape[1]} heads",
            allowed=f"{layers} layers x {heads} heads, this model's",
            do="set head_scores= to a file of this model, or compute one: make heads MODEL=...",
        )
    made_for = content.get("header", {}).get("architecture")
    if made_for not in (None, architecture_id(config)) and not allow_foreign:
        raise UserError(
            f"{path} was computed on another model ({content['header'].get('model')})",
            allowed="scores of this model",
            do="compute them: make heads MODEL=..., or set allow_foreign_scores=true",
        )
    table = torch.zeros(layers, heads, dtype=torch.float64)
    for (layer, head), values in scores.items():
        table[layer, head] = sum(values) / max(len(values), 1)
    return table


def save_head_scores(
    path: str | Path, tests: list[Tensor], header: dict[str, Any] | None = None
) -> None:
    """Writes a score file, whole or not at all.

    Args:
        path: where to.
        tests: `[layer, query_head]` for every test that counted.
        header: provenance; None writes the published shape.

    Raises:
        UserError: no test counted, or all scores are zero.
    """
    if not tests or not bool((torch.stack(tests) > 0).any()):
        raise UserError(
            f"no head scored above zero in {len(tests)} tests that counted",
            allowed="at least one test that the model answers",
            do="set teacher_forcing=true, shorter lengths= or another model=",
        )
    layers, heads = tests[0].shape
    values = torch.stack(tests, dim=-1).tolist()
    scores = {
        f"{layer}-{head}": [float(f"{value:.6g}") for value in values[layer][head]]
        for layer in range(layers)
        for head in range(heads)
    }
    content = scores if header is None else {"header": header, "scores": scores}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=None if header is None else 0) + "\n")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot read head scores {path}: {problem}",
            allowed='a JSON object of "layer-head" keys',
            do="set head_scores=FILE, or compute one: make heads MODEL=...",
        ) from problem
    if not isinstance(content, dict):
        content = {}
    return content


def _parse(path: Path, lists: dict[str, Any]) -> dict[tuple[int, int], list[float]]:
    try:
        parsed = {}
        for key, values in lists.items():
            layer, head = key.split("-")
            parsed[int(layer), int(head)] = [float(value) for value in values]
        if not parsed:
            raise ValueError("no scores in it")
    except (TypeError, ValueError) as problem:
        raise UserError(
            f"{path} is not a head-score file: {problem}",
            allowed='a JSON object of "layer-head": [scores]',
            do="set head_scores= to such a file",
        ) from problem
    return parsed
