"""The cells of a run: every method at every KV size, each with its own key and files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headkv.config import ROOT, instantiate
from headkv.errors import UserError
from headkv.evaluation.settings import Settings
from headkv.methods import Method
from headkv.models.spec import ModelSpec
from headkv.storage.head_scores import load_head_scores
from headkv.storage.keys import digest
from headkv.storage.layer_importance import load_layer_importance


@dataclass(frozen=True)
class Cell:
    """One method at one KV size.

    Attributes:
        name: the method's name.
        method: ready to compress.
        identity: everything about it that changes the output, for the run key.
    """

    name: str
    method: Method
    identity: dict[str, Any]


def build_cells(settings: Settings, spec: ModelSpec, config: Any) -> list[Cell]:
    """All cells asked for; FullKV is one whatever the number of sizes.

    A beta that is to be chosen, or was, is left to `headkv.evaluation.tuning`.

    Args:
        settings: of the run.
        spec: of the model; names its head-score and layer-importance files.
        config: the model's config.

    Raises:
        UserError: a method's parameter or KV size is out of bounds, or its scores are
            missing or another model's.
    """
    files: dict[str, tuple[Tensor, str]] = {}
    beta = None if isinstance(settings.beta, str) else settings.beta
    cells = []
    for name, parameters in settings.methods.items():
        extra: dict[str, Any] = {}
        identity: dict[str, Any] = {}
        if "kind" in parameters:
            kind = str(parameters["kind"])
            if kind not in files:
                files[kind] = _scores(settings, spec, config, kind)
            extra["head_scores"], identity["head_scores"] = files[kind]
        if "beta" in parameters:
            extra["beta"] = beta
        own = dict(parameters)
        if "layer_importance" in own:
            given = settings.layer_importance or own["layer_importance"]
            table, identity["layer_importance"] = _importance(settings, spec, config, given)
            own["layer_importance"] = table
        for kv_size in settings.kv_sizes:
            method = instantiate(
                f"method {name}",
                own,
                kv_size=kv_size,
                protocol=settings.protocol["name"],
                granularity=settings.granularity,
                **extra,
            )
            described = {k: v for k, v in vars(method).items() if not isinstance(v, Tensor)}
            described["class"] = f"{type(method).__module__}.{type(method).__name__}"
            cells.append(Cell(name, method, {**described, **identity}))
            if method.kv_size is None:
                break
    return cells


def _scores(settings: Settings, spec: ModelSpec, config: Any, kind: str) -> tuple[Tensor, str]:
    """The head scores of a kind and a hash of their file."""
    given = settings.head_scores or spec.head_scores.get(kind)
    if given is None:
        raise UserError(
            f"model {spec.name} has no {kind} head scores",
            allowed="a score file of this model",
            do=f"make heads MODEL={spec.name}, or set head_scores=FILE",
        )
    path = _located(settings, "head_scores", given)
    table = load_head_scores(path, config, allow_foreign=settings.allow_foreign_scores)
    return table, digest(table.tolist())


def _importance(
    settings: Settings, spec: ModelSpec, config: Any, given: str | None
) -> tuple[Tensor | None, str]:
    """The importance of every layer and a hash of it; None where all layers are the same."""
    given = given or spec.layer_importance
    if given is None or given == "uniform":
        return None, "uniform"
    path = _located(settings, "layer_importance", given)
    table = load_layer_importance(path, config, allow_foreign=settings.allow_foreign_scores)
    return table, digest(table.tolist())


def _located(settings: Settings, folder: str, given: str) -> Path:
    """Where a file lies: under `data_dir` if it is there, else in the repository or as given."""
    if settings.data_dir is not None and (settings.data_dir / folder / given).exists():
        return settings.data_dir / folder / given
    return ROOT / given
