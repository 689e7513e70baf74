"""What the methods kept and answered before they were composed of parts: how it is worked out.

`python tests/truth/record.py` writes it to `truth.npz`; `test_truth.py` works it out again and
compares entry by entry. The real model, forty-eight cells, three prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headkv

FILE = Path(__file__).parent / "truth.npz"
METHODS = [
    "fullkv", "streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2", "compresskv",
    "headkv_r_permuted", "headkv_r2_permuted", "headkv_random", "headkv_uniform",
]  # fmt: skip
KV_SIZE = 64
NEW_TOKENS = 8
SCORES = {
    "headkv_r": "retrieval", "headkv_r_permuted": "retrieval", "compresskv": "semantic",
    "headkv_r2": "retrieval_reasoning", "headkv_r2_permuted": "retrieval_reasoning",
    "headkv_random": "retrieval_reasoning", "headkv_uniform": "retrieval_reasoning",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One of the forty-eight: a method under a protocol, storing lists by KV or query head."""

    method: str
    protocol: str
    granularity: str

    @property
    def key(self) -> str:
        return f"{self.method}-{self.protocol}-{self.granularity}"

    def build(self, config: Any, data: Path) -> Any:
        """The method at KV 64, with the embedded model's own scores."""
        given: dict[str, Any] = {}
        if self.method in SCORES:
            path = data / "head_scores" / f"smollm2_135m_{SCORES[self.method]}.json"
            given["head_scores"] = headkv.load_head_scores(path, config)
        if self.method == "compresskv":
            path = data / "layer_importance" / "smollm2_135m.json"
            given["layer_importance"] = headkv.load_layer_importance(path, config)
        return headkv.build_method(
            self.method,
            kv_size=KV_SIZE,
            protocol=self.protocol,
            granularity=self.granularity,
            **given,
        )


def cells() -> Iterator[Cell]:
    yield from (Cell(*each) for each in product(METHODS, *PROTOCOLS_AND_GRANULARITIES))


PROTOCOLS_AND_GRANULARITIES = (("corrected", "paper"), ("kv_head", "query_head"))


def prefills(model: Any, prompts: dict[str, np.ndarray], tail: int) -> dict[str, dict[str, Any]]:
    """The prompts prefilled, by protocol and name; `corrected` keeps the chat template's tail."""
    found: dict[str, dict[str, Any]] = {}
    for protocol in PROTOCOLS_AND_GRANULARITIES[0]:
        found[protocol] = {}
        for name, ids in prompts.items():
            tokens = torch.from_numpy(ids.astype(np.int64))
            inputs = {"input_ids": tokens.clamp(min=0), "attention_mask": (tokens >= 0).long()}
            template = tail if protocol == "corrected" else 0
            found[protocol][name] = headkv.prefill(model, inputs, template_tokens=template)
    return found


def masks(positions: list[list[list[torch.Tensor]]], tokens: list[int]) -> np.ndarray:
    """Kept positions, `[sequence][layer][stored head]`, as one row of packed bits."""
    bits = []
    for row, length in zip(positions, tokens, strict=True):
        for heads in row:
            for kept in heads:
                mask = np.zeros(length, dtype=np.uint8)
                mask[kept.numpy()] = 1
                bits.append(mask)
    return np.packbits(np.concatenate(bits))
