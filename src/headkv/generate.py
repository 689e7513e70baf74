"""Prefill once, compress many times, decode all of it together."""

import copy
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


@dataclass
class Rows:
    """Several caches of one prefill as one batch that is about to answer.

    Attributes:
        cache: rows ordered `[cache][sequence]`.
        logits: of each row's next token, float32 `[row, vocabulary]`.
        positions: of that token, `[row, 1]`.
    """

    cache: CompressedCache
    logits: Tensor
    positions: Tensor

    def fork(self) -> "Rows":
        """The same rows, to feed other tokens to: they share the prompt, which never changes.

        One of the two is fed from here on and done with before the other is.
        """
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return Rows(cache, self.logits, self.positions)

    def feed(self, model: Any, tokens: Tensor, keep: int = 0) -> Tensor:
        """Feeds tokens to every row; they are kept.

        Args:
            model: the model of the prefill.
            tokens: ids, `[row, token]`.
            keep: logits behind the last so many tokens are wanted; 0: behind all.

        Returns:
            float32 `[row, token, vocabulary]`.
        """
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        with torch.no_grad():
            output = model(
                input_ids=tokens,
                position_ids=self.positions + steps,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        self.positions = self.positions + tokens.shape[1]
        return output.logits.float()

    def select(self, rows: Tensor) -> None:
        """Keeps the given rows only; the next logits are yet to come."""
        self.cache.batch_select_indices(rows)
        self.positions = self.positions[rows]


def start(
    model: Any,
    prefilled: Prefilled,
    caches: Sequence[CompressedCache],
    leads: Sequence[Sequence[int]] = (),
) -> Rows:
    """Stacks caches of one prefill, and feeds what comes before the answer.

    Args:
        model: the model of the prefill.
        prefilled: where the caches come from.
        caches: made by `prefilled.compress`; they give up their storage.
        leads: for each sequence, tokens to feed before answering, e.g. the question, where only
            the context was prefilled and compressed; all of one length. They are kept.
    """
    device = prefilled.logits.device
    rows = Rows(
        CompressedCache.stack(list(caches)),
        prefilled.logits.repeat(len(caches), 1),
        torch.tensor(prefilled.lengths * len(caches), device=device)[:, None],
    )
    if leads and leads[0]:
        tokens = torch.tensor(list(leads), device=device).repeat(len(caches), 1)
        rows.logits = rows.feed(model, tokens, keep=1)[:, -1]
    return rows


def answer(model: Any, rows: Rows, stopping: Stopping) -> list[list[int]]:
    """Greedy answers of all rows, which are used up; rows that end leave the batch.

    Returns:
        Token ids of each row, end tokens cut off.
    """
    logits, device = rows.logits, rows.logits.device
    ends = torch.tensor(stopping.end_tokens, device=device, dtype=torch.long)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    alive = list(range(len(logits)))
    for step in range(stopping.max_new_tokens):
        if step < stopping.min_new_tokens:
            logits = logits.index_fill(1, ends, float("-inf"))
        tokens = logits.argmax(-1)
        ended = torch.isin(tokens, ends).tolist()
        for row, token, over in zip(alive, tokens.tolist(), ended, strict=True):
            if not over:
                answers[row].append(token)
        going = [index for index, over in enumerate(ended) if not over]
        if not going or step + 1 == stopping.max_new_tokens:
            break
        if len(going) < len(alive):
            left = torch.tensor(going, device=device)
            rows.select(left)
            tokens = tokens[left]
            alive = [alive[index] for index in going]
        logits = rows.feed(model, tokens[:, None], keep=1)[:, -1]
    return answers


def decode(
    model: Any,
    prefilled: Prefilled,
    caches: Sequence[CompressedCache],
    stopping: Stopping,
    leads: Sequence[Sequence[int]] = (),
) -> list[list[list[int]]]:
    """Greedy answers under several caches of one prefill, all in one batch.

    Args:
        model: the model of the prefill.
        prefilled: where the caches come from.
        caches: made by `prefilled.compress`; they give up their storage.
        stopping: when an answer ends.
        leads: see `start`.

    Returns:
        Token ids as `[cache][sequence]` lists, end tokens cut off.
    """
    answers = answer(model, start(model, prefilled, caches, leads), stopping)
    batch = len(prefilled.lengths)
    return [answers[first : first + batch] for first in range(0, len(answers), batch)]
