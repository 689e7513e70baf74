"""kvpress, measured: a server that the benchmark starts in kvpress's own environment.

Reads one JSON command a line and answers with one JSON line, so that both sides can take turns on
a machine that is never quite idle. Imports nothing of headkv but the file that does the timing,
whose path is the only argument.
"""

import importlib.util
import json
import os
import sys
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from kvpress import AdaKVPress, SnapKVPress
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM


def load_measure(path: str) -> Any:
    """`headkv.efficiency.measure`, without importing `headkv`, which this environment cannot."""
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Peer:
    """The commands, one method each; what they return is the answer.

    Args:
        measure: the module that does the timing.
    """

    def __init__(self, measure: Any) -> None:
        self.measure = measure
        self.model: Any = None
        self.runs: dict[str, tuple[Any, list[Any]]] = {}

    def load(
        self, folder: str | None, shape: dict[str, Any], dtype: str, device: str, threads: int
    ) -> dict[str, str]:
        """Loads a folder, or makes a Llama of random weights where there is none."""
        torch.set_num_threads(threads)
        if folder is None:
            config = LlamaConfig(**shape)
            with torch.device(device):
                self.model = LlamaForCausalLM._from_config(
                    config, attn_implementation="sdpa", dtype=getattr(torch, dtype)
                )
        else:
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            ).to(device)
        self.model.eval()
        return {name: version(name) for name in ("kvpress", "transformers", "torch")}

    def prefill(
        self, name: str, ids: list[int], kv_size: int, window_size: int, kernel_size: int
    ) -> dict[str, Any]:
        """Prefills under a press (`none`, `snapkv`, `adakv`) and keeps the cache for `decode`."""
        press = self._press(name, len(ids), kv_size, window_size, kernel_size)
        inputs = torch.tensor([ids], device=self.model.device)
        cache = DynamicCache()
        run = self.measure.Run(self.model, cache, inputs)
        spans = self.measure.Spans(run.clock)
        self._mask([None] * len(self._attentions()))
        # The hook is bound when the press is applied, so it is watched from before.
        watched = spans.watch([press] if press else [], "forward_hook")
        applied = press(self.model) if press else nullcontext()
        with self.measure.PeakMemory(inputs.device) as peak, watched, applied:
            first = run.prefill()
        masks = [getattr(module, "masked_key_indices", None) for module in self._attentions()]
        self.runs[name] = (run, masks)
        return {
            "first": first,
            "compress": spans.seconds,
            "entries": sum(layer.keys.shape[:3].numel() for layer in cache.layers),
            "held": self.measure.dynamic_bytes(cache),
            "index_bytes": sum(_nbytes(mask) for mask in masks if mask is not None),
            "peak": peak.bytes,
        }

    def decode(self, name: str, steps: int) -> dict[str, Any]:
        """Goes on from `prefill`: seconds of each step, and bytes held after them."""
        run, masks = self.runs[name]
        self._mask(masks)
        seconds = run.decode(steps)
        return {"seconds": seconds, "held": self.measure.dynamic_bytes(run.cache)}

    def drop(self) -> dict[str, Any]:
        """Frees all caches."""
        self.runs.clear()
        self._mask([None] * len(self._attentions()))
        return {}

    def _press(
        self, name: str, tokens: int, kv_size: int, window_size: int, kernel_size: int
    ) -> Any:
        if name == "none":
            return None
        ratio = max(1 - kv_size / tokens, 0.0)
        snapkv = SnapKVPress(ratio, window_size=window_size, kernel_size=kernel_size)
        return AdaKVPress(snapkv) if name == "adakv" else snapkv

    def _attentions(self) -> list[Any]:
        return [layer.self_attn for layer in self.model.model.layers]

    def _mask(self, masks: list[Any]) -> None:
        """Ada-KV's state lies on the model's modules; each cache needs its own there."""
        for module, mask in zip(self._attentions(), masks, strict=True):
            module.masked_key_indices = mask


def _nbytes(indices: tuple[Tensor, ...]) -> int:
    return sum(part.untyped_storage().nbytes() for part in indices)


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else writes to stdout must not end up among the answers
    peer = Peer(load_measure(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, command.pop("do"))(**command)
        except Exception as problem:  # the other side decides what a failure means
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
