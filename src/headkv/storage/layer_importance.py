"""Layer-importance files: how much each layer's output suffers when its cache is compressed.

One JSON object, `{"header": {...}, "importance": [one number a layer]}`; the header says which
model, which tests and which versions (CompressKV, arXiv 2508.02401). `headkv.calibration.layer_importance` measures
them.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headkv.errors import UserError
from headkv.storage.atomic import write_json
from headkv.storage.head_scores import architecture_id

_MEASURE = "python -m headkv.calibration.layer_importance model=..."


def load_layer_importance(path: str | Path, config: Any, *, allow_foreign: bool = False) -> Tensor:
    """The importance of every layer.

    Args:
        path: a file as `save_layer_importance` writes it.
        config: the model's config.
        allow_foreign: take values whose header names a model of another architecture, if the
            number of layers fits.

    Returns:
        float64 `[layer]`, not negative, as it stands in the file.

    Raises:
        UserError: no such file, not such a file, or values of another model.
    """
    header, values = _read(Path(path))
    layers = config.get_text_config(decoder=True).num_hidden_layers
    if len(values) != layers:
        raise UserError(
            f"{path} has values for {len(values)} layers",
            allowed=f"{layers} layers, this model's",
            do=f"set layer_importance= to a file of this model, or measure one: {_MEASURE}",
        )
    made_for = header.get("architecture")
    if made_for not in (None, architecture_id(config)) and not allow_foreign:
        raise UserError(
            f"{path} was measured on another model ({header.get('model')})",
            allowed="values of this model",
            do=f"measure them: {_MEASURE}, or set allow_foreign_scores=true",
        )
    return torch.tensor(values, dtype=torch.float64)


def save_layer_importance(path: str | Path, importance: Tensor, header: dict[str, Any]) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: where to.
        importance: `[layer]`.
        header: provenance.
    """
    values = [float(f"{value:.6g}") for value in importance.tolist()]
    write_json(Path(path), {"header": header, "importance": values})


def _read(path: Path) -> tuple[dict[str, Any], list[float]]:
    try:
        content = json.loads(path.read_text())
        header, values = dict(content["header"]), [float(each) for each in content["importance"]]
        if not any(values) or not all(math.isfinite(each) and each >= 0 for each in values):
            raise ValueError("values that are not finite, negative, or all zero")
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise UserError(
            f"cannot read layer importance {path}: {type(problem).__name__}: {problem}",
            allowed='a JSON object with "header" and "importance", one number a layer',
            do=f"set layer_importance=FILE, or measure one: {_MEASURE}",
        ) from problem
    return header, values
