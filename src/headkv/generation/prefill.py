"""TODO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import CompressedCache, PromptLayer, plan_layers
from headkv.cache.attention import NAME, left_padding
from headkv.cache.layer_prompt import LayerPrompt
from headkv.errors import UserError
from headkv.methods.method import Method

OBSERVED = 64  # queries kept of a prefill: the widest window and template tail it can serve


class RecordingLayer(PromptLayer):
    """Keeps the whole prompt instead of compressing it."""

    prompt: LayerPrompt | None = None

    def receive(self, prompt: LayerPrompt) -> None:
        """Keeps keys and values, and copies the last queries so that the others are freed."""
        prompt.queries = prompt.queries[:, :, -OBSERVED:].clone()
        self.prompt = prompt


@dataclass
class Prefilled:
    """A prompt batch after prefill: compress it as often as you like, it does not change.

    Attributes:
        config: the model's config.
        logits: of the next token, `[batch, vocabulary]`.
        lengths: tokens of each prompt, padding not counted.
        layers: what each layer holds.
    """

    config: Any
    logits: Tensor
    lengths: list[int]
    layers: list[LayerPrompt]

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
        """The cache that a prefill with `CompressedCache(config, method)` would have left."""
        first = self.layers[0]
        if method.window_size + first.template_tokens > first.queries.shape[2]:
            raise UserError(
                f"window_size={method.window_size} and {first.template_tokens} template tokens",
                allowed=f"{first.queries.shape[2]} together",
                do="lower window_size=",
            )
        cache = CompressedCache(self.config, method, first.template_tokens)
        for layer, prompt in zip(cache.layers, self.layers, strict=True):
            layer.receive(prompt)
        return cache


def prefill(model: Any, inputs: Mapping[str, Tensor], template_tokens: int = 0) -> Prefilled:
    """Runs a batch of prompts through the model once.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        inputs: `input_ids` and optionally a left-padded `attention_mask`, `[batch, token]`.
        template_tokens: tokens of the chat template behind the user's text.

    Raises:
        UserError: the model's attention function is another.
    """
    if model.config._attn_implementation != NAME:
        raise UserError(
            f"the model's attn_implementation is {model.config._attn_implementation!r}",
            allowed=repr(NAME),
            do=f'load the model with attn_implementation="{NAME}"',
        )
    layers = [RecordingLayer(plan, template_tokens) for plan in plan_layers(model.config)]
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
    lengths = [inputs["input_ids"].shape[1] - pad for pad in padding]
    return Prefilled(model.config, output.logits[:, -1].float(), lengths, prompts)
