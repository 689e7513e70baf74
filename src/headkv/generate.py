"""Prefill once, compress many times, decode all of it together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.attention import NAME, left_padding
from headkv.cache import CompressedCache, PromptLayer, plan_layers
from headkv.errors import UserError
from headkv.layer_prompt import LayerPrompt
from headkv.methods.base import Method

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
        total = 0
        for layer, plan in zip(self.layers, plan_layers(self.config), strict=True):
            held = [length if plan.window is None else min(length, plan.window - 1)
                    for length in self.lengths]  # fmt: skip
            for side in (layer.keys, layer.values):
                total += sum(held) * side.shape[1] * side.shape[3] * side.element_size()
        return total

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


@dataclass(frozen=True)
class Stopping:
    """When an answer ends.

    Attributes:
        max_new_tokens: tokens of an answer at most.
        end_tokens: any of these ends it and is not part of it.
        min_new_tokens: tokens before which no end token is taken.
    """

    max_new_tokens: int
    end_tokens: tuple[int, ...]
    min_new_tokens: int = 0


def decode(
    model: Any,
    prefilled: Prefilled,
    caches: Sequence[CompressedCache],
    stopping: Stopping,
    lead: Sequence[int] = (),
) -> list[list[list[int]]]:
    """Greedy answers under several caches of one prefill, all in one batch.

    Args:
        model: the model of the prefill.
        prefilled: where the caches come from.
        caches: made by `prefilled.compress`; they give up their storage.
        stopping: when an answer ends.
        lead: tokens to feed before answering, e.g. the question, where only the context was
            prefilled and compressed. They are kept.

    Returns:
        Token ids as `[cache][sequence]` lists, end tokens cut off.
    """
    batch, device = len(prefilled.lengths), prefilled.logits.device
    cache = CompressedCache.stack(list(caches))
    ends = torch.tensor(stopping.end_tokens, device=device, dtype=torch.long)
    logits = prefilled.logits.repeat(len(caches), 1)
    positions = torch.tensor(prefilled.lengths * len(caches), device=device)[:, None]
    if lead:
        tokens = torch.tensor([lead], device=device).expand(len(positions), -1)
        steps = torch.arange(len(lead), device=device)
        logits = _next_logits(model, tokens, positions + steps, cache)
        positions = positions + len(lead)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    alive = list(range(len(logits)))
    for step in range(stopping.max_new_tokens):
        if step < stopping.min_new_tokens:
            logits[:, ends] = float("-inf")
        tokens = logits.argmax(-1)
        ended = torch.isin(tokens, ends).tolist()
        for row, token, over in zip(alive, tokens.tolist(), ended, strict=True):
            if not over:
                answers[row].append(token)
        going = [index for index, over in enumerate(ended) if not over]
        if not going or step + 1 == stopping.max_new_tokens:
            break
        if len(going) < len(alive):
            rows = torch.tensor(going, device=device)
            cache.batch_select_indices(rows)
            tokens, positions = tokens[rows], positions[rows]
            alive = [alive[index] for index in going]
        logits = _next_logits(model, tokens[:, None], positions, cache)
        positions = positions + 1
    return [answers[start : start + batch] for start in range(0, len(answers), batch)]


def _next_logits(model: Any, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Feeds `[row, token]` ids and returns the logits after the last, float32."""
    with torch.no_grad():
        output = model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return output.logits[:, -1].float()
