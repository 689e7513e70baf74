"""Layer-importance files: how much each layer's output suffers when its cache is compressed.

One JSON object, `{"header": {...}, "importance": [one number a layer]}`; the header says which
model, which tests and which versions (CompressKV, arXiv 2508.02401). The values are measured by
`headkv.calibration.layer_importance`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.config import ROOT
from headkv.errors import UserError
from headkv.records import text_config
from headkv.storage.atomic import write_json
from headkv.storage.head_scores import architecture_id
from headkv.storage.measured import find_measured
from headkv.storage.reading import read_json
from headkv.storage.schemas import LAYER_IMPORTANCE

if TYPE_CHECKING:
    from torch import Tensor

MEASURE = "headkv importance model=..."
"""The command that measures layer importance, for messages."""


def default_layer_importance(model_name: str) -> Path:
    """Returns the file that is written unless told otherwise, and that runs find by themselves.

    Args:
        model_name: the name in the model's yaml.
    """
    return ROOT / "data" / "layer_importance" / f"{model_name}.json"


def find_layer_importance(
    model_name: str, data_dir: Path | None = None, spec_path: str | None = None
) -> Path | None:
    """Finds a model's layer-importance file, where `headkv.storage.measured` says.

    Args:
        model_name: the name in the model's yaml.
        data_dir: the user's data.
        spec_path: what the model's yaml names, relative to the checkout.

    Returns:
        The file that was measured, else the one that `spec_path` names, there or not; None if
        there is none.
    """
    return find_measured("layer_importance", f"{model_name}.json", data_dir, spec_path)


def load_layer_importance(
    path: str | Path, config: Any = None, *, allow_foreign: bool = False
) -> "Tensor":
    """Loads the importance of every layer.

    Args:
        path: a file as `save_layer_importance` writes it.
        config: the config of the model that is to be compressed, `model.config`.
        allow_foreign: take values whose header names a model of another architecture, if the
            number of layers fits.

    Returns:
        float64 `[layer]`, not negative, as it stands in the file.

    Raises:
        UserError: no such file, not such a file, values of another model, or no config.
    """
    import torch  # here, so that the rest of storage does without it

    header, values = _read(Path(path))
    layers = text_config(config).num_hidden_layers
    if len(values) != layers:
        raise UserError(
            f"{path} has values for {len(values)} layers",
            allowed=f"{layers} layers, this model's",
            do=f"set layer_importance= to a file of this model, or measure one: {MEASURE}",
        )
    made_for = header.get("architecture")
    if made_for not in (None, architecture_id(config)) and not allow_foreign:
        raise UserError(
            f"{path} was measured on another model ({header.get('model')})",
            allowed="values of this model",
            do=f"measure them: {MEASURE}, or set allow_foreign_scores=true",
        )
    return torch.tensor(values, dtype=torch.float64)


def save_layer_importance(path: str | Path, importance: "Tensor", header: dict[str, Any]) -> None:
    """Writes a layer-importance file, whole or not at all.

    Args:
        path: the file.
        importance: the importance of every layer, `[layer]`.
        header: provenance: model, architecture, settings, versions.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    values = [float(f"{value:.6g}") for value in importance.tolist()]
    write_json(Path(path), {"header": header, "importance": values}, "output=")


def _read(path: Path) -> tuple[dict[str, Any], list[float]]:
    """The header and one value a layer."""
    about = {
        "allowed": '{"header": {...}, "importance": [a number a layer]}',
        "do": f"set layer_importance=, or measure it: {MEASURE}",
    }
    content = read_json(path, LAYER_IMPORTANCE, "layer importance", **about)
    values = [float(each) for each in content["importance"]]
    return content["header"], values
