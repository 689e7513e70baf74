"""The cells of a run: every method at every KV size, each with its own key and files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headkv.config import ROOT, instantiate
from headkv.errors import UserError
from headkv.head_scores import load_head_scores
from headkv.methods import Method
from headkv.model_spec import ModelSpec
from headkv.settings import Settings
from headkv.store import digest


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

    Args:
        settings: of the run.
        spec: of the model; names its head-score files.
        config: the model's config.

    Raises:
        UserError: a method's parameter or KV size is out of bounds, or its head scores are
            missing or another model's.
    """
    files: dict[str, tuple[Tensor, str]] = {}
    cells = []
    for name, parameters in settings.methods.items():
        extra: dict[str, Any] = {}
        identity: dict[str, Any] = {}
        if "kind" in parameters:
            kind = str(parameters["kind"])
            if kind not in files:
                files[kind] = _scores(settings, spec, config, kind)
            extra = {"head_scores": files[kind][0], "beta": settings.beta}
            identity = {"head_scores": files[kind][1]}
        for kv_size in settings.kv_sizes:
            method = instantiate(
                f"method {name}",
                dict(parameters),
                kv_size=kv_size,
                protocol=settings.protocol["name"],
                granularity=settings.granularity,
                **extra,
            )
            described = {key: value for key, value in vars(method).items() if key != "head_scores"}
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
    path = Path(given) if Path(given).is_absolute() else ROOT / given
    if settings.data_dir is not None and (settings.data_dir / "head_scores" / given).exists():
        path = settings.data_dir / "head_scores" / given
    table = load_head_scores(path, config, allow_foreign=settings.allow_foreign_scores)
    return table, digest(table.tolist())
