"""A prompt is prefilled once; what methods need is recorded, so that any number can follow."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import CompressedCache, PromptLayer, plan_layers
from headkv.cache.attention import NAME, left_padding
from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt, keep_layers
from headkv.errors import UserError
from headkv.generation.reading import Reading
from headkv.generation.second_pass import read_again
from headkv.methods.method import Method


class RecordingLayer(PromptLayer):
    """Keeps the whole prompt instead of compressing it.

    Args:
        plan: the layer's part in the model.
        template_tokens: tokens of the chat template behind the user's text.
        methods: that will compress the prompt; None: any may.
        ends: see `PromptLayer`.
    """

    def __init__(
        self,
        plan: LayerPlan,
        template_tokens: int,
        methods: Sequence[Method] | None,
        ends: Tensor | None = None,
    ) -> None:
        super().__init__(plan, template_tokens, ends)
        self.methods = methods
        self.prompt: LayerPrompt | None = None

    def receive(self, prompt: LayerPrompt) -> None:
        """Keeps keys, values and what the methods read of the queries; the others are freed."""
        prompt.record(self.methods)
        self.prompt = prompt


@dataclass
class Prefilled:
    """A prompt batch after prefill: compress it as often as you like, it does not change.

    Attributes:
        config: the model's config.
        logits: of the next token, `[batch, vocabulary]`.
        ids: token ids of each prompt, padding left out.
        layers: what each layer holds.
        second_seconds: what a second pass took by what it notes, of `evidence.SECOND_PASS`.
    """

    config: Any
    logits: Tensor
    ids: list[list[int]]
    layers: list[LayerPrompt]
    second_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt, padding not counted."""
        return [len(text) for text in self.ids]

    @property
    def next_token(self) -> Tensor:
        """Greedy first token of each answer, `[batch, 1]`; no method has a part in it."""
        return self.logits.argmax(-1, keepdim=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the uncompressed per-KV-head cache, padding not counted."""
        return sum(self.row_bytes)

    @property
    def row_bytes(self) -> list[int]:
        """Bytes of it of each prompt."""
        rows = [0] * len(self.lengths)
        for layer, plan in zip(self.layers, plan_layers(self.config), strict=True):
            for side in (layer.keys, layer.values):
                entry = side.shape[1] * side.shape[3] * side.element_size()
                for row, length in enumerate(self.lengths):
                    held = length if plan.window is None else min(length, plan.window - 1)
                    rows[row] += held * entry
        return rows

    def compress(self, method: Method) -> CompressedCache:
        """The cache that a prefill with `CompressedCache(config, method)` would have left.

        Raises:
            UserError: the prompt was prefilled for other methods, and this one reads more.
        """
        cache = CompressedCache(self.config, method, self.layers[0].template_tokens)
        for layer, prompt in zip(cache.layers, self.layers, strict=True):
            layer.receive(prompt)
        return cache


def kept_positions(prefilled: Prefilled, method: Method, row: int = 0) -> list[list[Tensor]]:
    """Positions that each stored head of each layer holds after compression.

    Args:
        prefilled: prompts; unchanged.
        method: decides what is kept, whatever its scorer reads.
        row: which of the prompts.

    Returns:
        Ascending int64 positions on the CPU, `[layer][stored_head]`, padding not counted. A
        sliding-window layer keeps its last tokens, in every head.
    """
    plans = plan_layers(prefilled.config)
    full = [layer for layer, plan in enumerate(plans) if plan.index is not None]
    if len(full) < len(plans):
        method = method.for_layers(full)
    kept = iter(keep_layers([prefilled.layers[layer] for layer in full], method, row))
    found, end = [], prefilled.lengths[row]
    for plan, layer in zip(plans, prefilled.layers, strict=True):
        if plan.index is not None:
            found.append([each.cpu() for each in next(kept).by_head()])
        else:
            assert plan.window is not None
            last = torch.arange(max(end - plan.window + 1, 0), end)
            found.append([last] * layer.keys.shape[1])
    return found


def prefill(
    model: Any,
    inputs: Mapping[str, Tensor],
    template_tokens: int = 0,
    methods: Sequence[Method] | None = None,
    reading: Reading | None = None,
    ends: Tensor | None = None,
) -> Prefilled:
    """Runs a batch of prompts through the model once.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        inputs: `input_ids` and optionally a left-padded `attention_mask`, `[batch, token]`.
        template_tokens: tokens of the chat template behind the user's text.
        methods: that will compress the prompt. What they need is recorded and nothing else, which
            is lean; None records the queries of every token, so that any method can follow but
            those that read the prompt a second time.
        reading: what a second pass feeds, from `headkv.reading`; None: the prompt's tokens alone.
        ends: see `CompressedCache`.

    Raises:
        UserError: the model's attention function is another.
    """
    if model.config._attn_implementation != NAME:
        raise UserError(
            f"the model's attn_implementation is {model.config._attn_implementation!r}",
            allowed=repr(NAME),
            do=f'load the model with attn_implementation="{NAME}"',
        )
    plans = plan_layers(model.config)
    layers = [RecordingLayer(plan, template_tokens, methods, ends) for plan in plans]
    mask = inputs.get("attention_mask")
    padding = left_padding(mask, inputs["input_ids"].shape[0])
    positions = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)
    offsets = torch.tensor(padding, device=positions.device)[:, None]
    with torch.no_grad():
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=mask if any(padding) else None,
            position_ids=(positions[None] - offsets).clamp(min=0),
            past_key_values=Cache(layers=list(layers)),
            use_cache=True,
            logits_to_keep=1,
        )
    prompts = [layer.prompt for layer in layers if layer.prompt is not None]
    texts = [row[pad:] for row, pad in zip(inputs["input_ids"].tolist(), padding, strict=True)]
    prefilled = Prefilled(model.config, output.logits[:, -1].float(), texts, prompts)
    notes = frozenset[str]().union(*(method.second_pass for method in methods or ()))
    for together in (notes - {"task_prompts"}, notes & {"task_prompts"}):
        if together:
            _wait(model)
            began = time.perf_counter()
            plans = plan_layers(model.config)
            read_again(model, prompts, plans, texts, together, reading or Reading())
            _wait(model)
            seconds = time.perf_counter() - began
            prefilled.second_seconds |= dict.fromkeys(together, seconds)
    return prefilled


def _wait(model: Any) -> None:
    """Until the GPU has done what it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
