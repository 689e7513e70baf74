"""The settings of a run: what Hydra composed, typed and checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headkv.config import ROOT
from headkv.errors import UserError, choose
from headkv.methods import GRANULARITIES, PROTOCOLS
from headkv.storage.shards import Shard


@dataclass(frozen=True)
class Settings:
    """What every benchmark script takes.

    Attributes:
        model: content of `conf/model/*.yaml`.
        methods: name -> content of `conf/method/*.yaml`.
        kv_sizes: each method but FullKV runs at every one of them.
        protocol: content of `conf/protocol/*.yaml`.
        granularity: overrides the protocol's.
        compress_on: `prompt`, or `context`: compressed before the question is seen.
        beta: overrides HeadKV's; `choose` and `chosen`: see `headkv.evaluation.tuning`.
        head_scores: a score file, overriding the model's own.
        layer_importance: a layer-importance file, overriding the model's own; `uniform`: none.
        allow_foreign_scores: take scores of another model.
        limit: first examples of each task, or all.
        batch_size: examples prefilled together; None: one.
        cells_per_batch: cells decoded together; None: as many as memory allows.
        shard: the part of the examples that this process answers; None: all.
        dry_run: only say what the run would take.
        fidelity: whether to measure it, see `headkv.evaluation.fidelity`.
        seed: of the examples.
        data_dir: where benchmarks look first.
        output_dir: results.
        raw: the whole composed config, for the record.
    """

    model: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    kv_sizes: tuple[int, ...]
    protocol: Mapping[str, Any]
    granularity: str | None
    compress_on: str
    beta: float | str | None
    head_scores: str | None
    layer_importance: str | None
    allow_foreign_scores: bool
    limit: int | None
    batch_size: int | None
    cells_per_batch: int | None
    shard: Shard | None
    dry_run: bool
    fidelity: bool
    seed: int
    data_dir: Path | None
    output_dir: Path
    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Settings":
        """Checks types and bounds.

        Args:
            config: the composed config as plain containers.

        Raises:
            UserError: the first value that cannot be used.
        """
        sizes = config["kv_size"] if isinstance(config["kv_size"], list) else [config["kv_size"]]
        if not sizes:
            raise UserError("kv_size is empty", allowed="one or more", do="set kv_size=128")
        for size in sizes:
            _whole("kv_size", size, 1)
        for key in ("limit", "batch_size", "cells_per_batch"):
            if config[key] is not None:
                _whole(key, config[key], 1)
        _whole("seed", config["seed"], 0)
        for key in ("fidelity", "dry_run"):
            if not isinstance(config[key], bool):
                raise UserError(
                    f"{key}={config[key]!r}", allowed="true, false", do=f"change {key}="
                )
        choose("protocol", config["protocol"]["name"], PROTOCOLS)
        if config["granularity"] is not None:
            choose("granularity", config["granularity"], GRANULARITIES)
        return cls(
            model=config["model"],
            methods=config["methods"],
            kv_sizes=tuple(dict.fromkeys(sizes)),
            protocol=config["protocol"],
            granularity=config["granularity"],
            compress_on=choose("compress_on", config["compress_on"], ["prompt", "context"]),
            beta=_beta(config["beta"]),
            head_scores=config["head_scores"],
            layer_importance=config["layer_importance"],
            allow_foreign_scores=bool(config["allow_foreign_scores"]),
            limit=config["limit"],
            batch_size=config["batch_size"],
            cells_per_batch=config["cells_per_batch"],
            shard=Shard.parse(config["shard"]),
            dry_run=config["dry_run"],
            fidelity=config["fidelity"],
            seed=config["seed"],
            data_dir=_folder(config["data_dir"]),
            output_dir=_path(config["output_dir"]),
            raw=config,
        )


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{name}={value!r}", allowed=f"whole numbers from {least}", do=f"change {name}="
        )


def _beta(value: Any) -> float | str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
    if value is not None and not number and value not in ("choose", "chosen"):
        raise UserError(f"beta={value!r}", allowed="1 or more, or chosen", do="set beta=1.2")
    return value


def _path(value: str) -> Path:
    return Path(value) if Path(value).is_absolute() else ROOT / value


def _folder(value: str | None) -> Path | None:
    if value is None:
        return None
    path = Path(value).expanduser().absolute()
    if not path.is_dir():
        raise UserError(
            f"data_dir={value} is not a folder", allowed="an existing folder", do="set data_dir="
        )
    return path
