"""The two sides of the benchmark, with one interface: this package, and kvpress."""

import json
import os
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headkv.config import ROOT, load_group
from headkv.efficiency import measure
from headkv.efficiency.subjects import BASELINE, Subject, Trial, baseline, compressed
from headkv.efficiency.workload import Workload
from headkv.errors import UserError
from headkv.methods import Method
from headkv.methods.build import compose
from headkv.storage.head_scores import find_head_scores, load_head_scores
from headkv.storage.layer_importance import find_layer_importance, load_layer_importance

PEER_PYTHON = ROOT / ".cache" / "kvpress-venv" / "bin" / "python"
PEER_SCRIPT = ROOT / "bench" / "peer_kvpress.py"


class PeerError(Exception):
    """kvpress could not do what it was asked."""


class Ours:
    """This package's caches, and transformers' `DynamicCache`.

    Args:
        workload: model and prompts.
        names: names of methods, and `BASELINE`.
        kv_size: mean tokens a stored head may keep, of all methods.
    """

    side = "headkv"

    def __init__(self, workload: Workload, names: Sequence[str], kv_size: int) -> None:
        self.workload, self.names = workload, list(names)
        self._subjects = {name: _subject(name, workload, kv_size) for name in names}
        self._models = {"headkv": workload.model}
        self._trials: dict[str, Trial] = {}

    def prefill(self, name: str, ids: Tensor) -> dict[str, Any]:
        """Prefills and keeps the cache for `decode`; the peak is of the prefill."""
        with measure.PeakMemory(ids.device) as peak:
            trial = Trial(self._subjects[name], self._model(name), ids)
        self._trials[name] = trial
        return {
            "first": trial.first,
            "compress": trial.compress,
            **trial.sizes,
            "peak": peak.bytes,
        }

    def decode(self, name: str, steps: int) -> dict[str, Any]:
        """Returns the seconds of each of the next steps, and the bytes held after them."""
        return {"seconds": self._trials[name].decode(steps), "held": self._trials[name].held}

    def _model(self, name: str) -> Any:
        """One module tree an attention function, of the same weights.

        Switching a single one to and fro at every turn costs a millisecond of each token.
        """
        attention = self._subjects[name].attention
        if attention not in self._models:
            shared = {id(weight): weight for weight in self.workload.model.parameters()}
            self._models[attention] = deepcopy(self.workload.model, shared)
        return self._models[attention]

    def drop(self) -> None:
        """Frees all caches."""
        self._trials.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Kvpress:
    """kvpress in its own process and environment, driven by JSON lines.

    Args:
        python: the interpreter of kvpress's environment.
        workload: model and prompts that it is to load as well.
        folder: folder of the model; None for a random one.
        kv_size: mean tokens a stored head may keep, of all methods.
    """

    side = "kvpress"
    names = ("none", "snapkv", "adakv")

    def __init__(self, python: Path, workload: Workload, folder: Path | None, kv_size: int) -> None:
        self._process = subprocess.Popen(
            [str(python), str(PEER_SCRIPT), str(measure.__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        scorer = load_group("scorer", "window") | load_group("method", "snapkv")["scorer"]
        self._press = {
            "kv_size": kv_size,
            "window_size": scorer["window_size"],
            "kernel_size": scorer["kernel_size"],
        }
        model = workload.model
        self.versions = self._ask(
            "load",
            folder=None if folder is None else str(folder),
            shape=model.config.to_dict() if folder is None else {},
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            threads=torch.get_num_threads(),
        )

    def prefill(self, name: str, ids: Tensor) -> dict[str, Any]:
        """Prefills in kvpress's process; see `Ours.prefill`."""
        return self._ask("prefill", name=name, ids=ids[0].tolist(), **self._press)

    def decode(self, name: str, steps: int) -> dict[str, Any]:
        """Decodes in kvpress's process; see `Ours.decode`."""
        return self._ask("decode", name=name, steps=steps)

    def drop(self) -> None:
        """Frees all caches."""
        self._ask("drop")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"kvpress ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"kvpress: {answer['error']}")
        return answer


def peer_python() -> Path | None:
    """Returns kvpress's Python: `$KVPRESS_PYTHON`, else what `make bench-peer` made, or None."""
    path = Path(os.environ.get("KVPRESS_PYTHON") or PEER_PYTHON)
    return path if path.exists() else None


def _subject(name: str, workload: Workload, kv_size: int) -> Subject:
    """A method's cache with the model's own files, or the baseline."""
    config = workload.model.config
    if name == BASELINE:
        return baseline(config)
    return compressed(name, method_of(name, workload, kv_size), config, {})


def method_of(name: str, workload: Workload, kv_size: int) -> Method:
    """A method with the model's own files.

    Args:
        name: of `conf/method`, or with another scorer, such as `snapkv+span`.
        workload: names the model.
        kv_size: mean tokens a stored head may keep.
    """
    spec, config = workload.spec, workload.model.config

    def read(what: str, kind: str | None) -> Tensor:
        """The head scores or the layer importance of the model."""
        if what == "layer_importance":
            path = find_layer_importance(spec.name, None, spec.layer_importance)
        else:
            path = find_head_scores(spec.name, str(kind), None, spec.head_scores.get(str(kind)))
        if path is None:
            raise UserError(
                f"model {spec.name} has no {kind or ''} {what}",
                allowed="methods whose files the model has",
                do="change --methods",
            )
        if what == "layer_importance":
            return load_layer_importance(path, config)
        return load_head_scores(path, config, kind=kind)

    own, _, scorer = name.partition("+")
    settings = load_group("method", own)
    return compose(name, settings, kv_size=kv_size, scorer=scorer or None, resource=read)
