"""What the methods kept and answered before they were composed of parts: how it is worked out.

`python tests/truth/record.py` writes it to `truth.npz`; `test_truth.py` works it out again and
compares entry by entry. The real model, forty-eight cells, three prompts: one of about 400 tokens,
one shorter than the KV size, and a left-padded batch of two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import headkv
from headkv.config import DATA

FILE = Path(__file__).parent / "truth.npz"
MODEL = "smollm2_135m"
METHODS = [
    "fullkv",
    "streamingllm",
    "snapkv",
    "pyramidkv",
    "adakv",
    "headkv_r",
    "headkv_r2",
    "compresskv",
    "headkv_r_permuted",
    "headkv_r2_permuted",
    "headkv_random",
    "headkv_uniform",
]
PROTOCOLS = ("corrected", "paper")
GRANULARITIES = ("kv_head", "query_head")
KV_SIZE = 64
NEW_TOKENS = 8
SCORES = {
    "headkv_r": "retrieval",
    "headkv_r_permuted": "retrieval",
    "compresskv": "semantic",
    "headkv_r2": "retrieval_reasoning",
    "headkv_r2_permuted": "retrieval_reasoning",
    "headkv_random": "retrieval_reasoning",
    "headkv_uniform": "retrieval_reasoning",
}


@dataclass(frozen=True)
class Cell:
    """One of the forty-eight: a method under a protocol, storing lists by KV or query head."""

    method: str
    protocol: str
    granularity: str

    @property
    def key(self) -> str:
        return f"{self.method}-{self.protocol}-{self.granularity}"

    def build(self, config: Any) -> headkv.Method:
        """The method at KV 64, with the embedded model's own scores."""
        given: dict[str, Any] = {}
        if self.method in SCORES:
            path = DATA / "head_scores" / f"{MODEL}_{SCORES[self.method]}.json"
            given["head_scores"] = headkv.load_head_scores(path, config)
        if self.method == "compresskv":
            path = DATA / "layer_importance" / f"{MODEL}.json"
            given["layer_importance"] = headkv.load_layer_importance(path, config)
        return headkv.build_method(
            self.method,
            kv_size=KV_SIZE,
            protocol=self.protocol,
            granularity=self.granularity,
            **given,
        )


def load(recorded: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The recorded prompts by name, and the tokens of the chat template's tail."""
    prompts = {
        key.removeprefix("prompt-"): value
        for key, value in recorded.items()
        if key.startswith("prompt-")
    }
    return prompts, int(recorded["template_tokens"])


def prefills(
    model: Any, prompts: Mapping[str, np.ndarray], tail: int
) -> dict[str, dict[str, headkv.Prefilled]]:
    """The prompts prefilled, by protocol and name; `corrected` keeps the chat template's tail."""
    found: dict[str, dict[str, headkv.Prefilled]] = {}
    for protocol in PROTOCOLS:
        found[protocol] = {}
        for name, ids in prompts.items():
            tokens = torch.from_numpy(ids.astype(np.int64))
            inputs = {"input_ids": tokens.clamp(min=0), "attention_mask": (tokens >= 0).long()}
            template = tail if protocol == "corrected" else 0
            found[protocol][name] = headkv.prefill(model, inputs, template_tokens=template)
    return found


def logits(prefilled: Mapping[str, Mapping[str, headkv.Prefilled]]) -> np.ndarray:
    """The first 64 logits behind each prompt: whether this machine computes as the recorder did."""
    rows = [each.logits.numpy()[:, :64].ravel() for each in prefilled["paper"].values()]
    return np.concatenate(rows)


def truth_of(
    model: Any, cells: Sequence[Cell], name: str, prefilled: headkv.Prefilled, tail: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Kept positions, budgets and greedy answers of cells of one protocol and granularity.

    Args:
        model: the model that prefilled.
        cells: what to work out; decoded together, as rows of one batch.
        name: of the prompt.
        prefilled: the prompt, under the cells' protocol.
        tail: tokens of the chat template behind the user's text.
    """
    shape = model.config.num_hidden_layers, 9, model.config.num_key_value_heads
    methods = [cell.build(model.config) for cell in cells]
    for cell, method in zip(cells, methods, strict=True):
        rows = [
            headkv.kept_positions(prefilled, method, row=row)
            for row in range(len(prefilled.lengths))
        ]
        yield f"kept-{cell.key}-{name}", masks(rows, prefilled.lengths)
        if cell.method != "adakv":
            template = tail if cell.protocol == "corrected" else 0
            budgets = [method.budgets(*shape, n, template).numpy() for n in prefilled.lengths]
            yield f"budgets-{cell.key}-{name}", np.array(budgets).astype(np.int16)
    caches = [prefilled.compress(method) for method in methods]
    stop = headkv.Stopping(NEW_TOKENS, (model.config.eos_token_id,))
    for cell, answers in zip(cells, headkv.decode(model, prefilled, caches, stop), strict=True):
        padded = [answer + [-1] * (NEW_TOKENS - len(answer)) for answer in answers]
        yield f"answers-{cell.key}-{name}", np.array(padded, dtype=np.int32)


def work_out(
    model: Any, prefilled: Mapping[str, Mapping[str, headkv.Prefilled]], tail: int
) -> dict[str, np.ndarray]:
    """Everything that `truth.npz` holds beside the prompts."""
    found = {"logits": logits(prefilled)}
    for protocol, granularity in product(PROTOCOLS, GRANULARITIES):
        cells = [Cell(method, protocol, granularity) for method in METHODS]
        for name, prompt in prefilled[protocol].items():
            found.update(truth_of(model, cells, name, prompt, tail))
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
