"""A prompt is prefilled once; what methods need is recorded, so that any number can follow."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from headkv.cache import CompressedCache, PromptLayer, plan_layers
from headkv.cache.attention import NAME, left_padding
from headkv.cache.checks import check_inputs, check_mask, check_method, check_template
from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt, keep_layers
from headkv.errors import UserError
from headkv.generation.reading import Reading
from headkv.generation.second_pass import read_again
from headkv.kernels import causal_attention
from headkv.methods.method import Method


class RecordingLayer(PromptLayer):
    """Keeps the whole prompt instead of compressing it.

    Args:
        plan: the layer's part in the model.
        template_tokens: tokens of the chat template behind the user's text.
        methods: that will compress the prompt; None: any may.
        beginning: of the prompt, one sequence, prefilled already; None: nothing is.
        probe_tokens: last tokens fed, which are no part of the prompt.
        ends: see `PromptLayer`.
    """

    def __init__(
        self,
        plan: LayerPlan,
        template_tokens: int,
        methods: Sequence[Method] | None,
        beginning: LayerPrompt | None = None,
        probe_tokens: int = 0,
        ends: Tensor | None = None,
    ) -> None:
        super().__init__(plan, template_tokens, ends)
        self.methods, self.beginning, self.probe_tokens = methods, beginning, probe_tokens
        self.prompt: LayerPrompt | None = None
        if beginning is not None:
            self.seen, self.is_initialized = beginning.keys.shape[2], True

    def receive(self, prompt: LayerPrompt) -> None:
        """Keeps keys, values and what the methods read of the queries; the others are freed."""
        prompt = prompt.without_probe(self.probe_tokens)
        prompt.record(self.methods)
        self.prompt = prompt

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes all keys on, those of what came before too."""
        if self.beginning is None:
            return super().update(key_states, value_states)
        keys = torch.cat([self.beginning.keys, key_states], 2)
        self.seen = keys.shape[2]
        keys.headkv_layer = self  # type: ignore[attr-defined]
        return keys, torch.cat([self.beginning.values, value_states], 2)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends the rest of a prompt over all of it, and keeps the prompt whole."""
        beginning, self.beginning = self.beginning, None
        assert beginning is not None
        del keys.headkv_layer  # type: ignore[attr-defined]
        output = causal_attention(query, keys, values, scaling, None, softcap, self.plan.window)
        self.receive(
            replace(
                beginning,
                queries=torch.cat([beginning.queries, query], 2),
                keys=keys,
                values=values,
                template_tokens=self.template_tokens,
                second={},
                ends=self.ends,
                _evidence=[],
            )
        )
        return output


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
        self.check_finite()
        return self.logits.argmax(-1, keepdim=True)

    @property
    def finite(self) -> list[bool]:
        """Whether each prompt's logits, keys and values are numbers everywhere, padding aside."""
        sound = [torch.isfinite(self.logits).all(-1)]
        sound += [layer.finite.to(self.logits.device) for layer in self.layers]
        return torch.stack(sound).all(0).tolist()

    def check_finite(self) -> None:
        """Raises `UserError` if the logits are not numbers: any token is then as good."""
        if not bool(torch.isfinite(self.logits).all()):
            raise UserError(
                "the model's logits after the prompt are NaN or infinite",
                allowed="a model that computes numbers",
                do="check its weights, or load it in a wider dtype",
            )

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

    def repeat(self, rows: int) -> "Prefilled":
        """Returns a prompt several times over, in the same memory: evidence is shared too."""
        layers = [layer.repeat(rows) for layer in self.layers]
        return replace(self, logits=self.logits.repeat(rows, 1), ids=self.ids * rows, layers=layers)

    def compress(self, method: Method) -> CompressedCache:
        """The cache that a prefill with `CompressedCache(config, method)` would have left.

        Raises:
            UserError: the prompt was prefilled for other methods, and this one reads more.
        """
        cache = CompressedCache(self.config, method, self.layers[0].template_tokens)
        for layer, prompt in zip(cache.layers, self.layers, strict=True):
            layer.receive(prompt)
        if len(set(self.lengths)) == 1:  # as a generate that goes on will write it, unpadded
            cache.text = torch.tensor(self.ids)
        return cache


def check_prefilled(given: object) -> None:
    """Raises `UserError` unless what was given is a prefilled prompt."""
    if not isinstance(given, Prefilled):
        raise UserError(
            f"{type(given).__name__} was given where a prefilled prompt is wanted",
            allowed="what headkv.prefill returns",
            do="give headkv.prefill(model, inputs)",
        )


def begin(model: Any, ids: Sequence[int], methods: Sequence[Method]) -> Prefilled:
    """Runs what several prompts begin with through the model, for `go_on`.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        ids: token ids of the common beginning.
        methods: that will compress the prompts; none reads a prompt a second time.
    """
    inputs = {"input_ids": torch.tensor([list(ids)], device=model.device)}
    # What is yet to come may be shorter than a window: the last queries are kept here too.
    every = any(method.needs_every_query for method in methods)
    return prefill(model, inputs, 0, None if every else methods)


def go_on(
    model: Any,
    beginning: Prefilled,
    rest: Sequence[int],
    template_tokens: int,
    methods: Sequence[Method],
    ends: Tensor | None = None,
) -> Prefilled:
    """Prefills a prompt whose beginning is prefilled already, as if it were all prefilled anew.

    Equal to that but for rounding: the same sums, formed in other pieces.

    Args:
        model: the model.
        beginning: from `begin`; unchanged.
        rest: token ids of what follows; none: the beginning is the prompt.
        template_tokens: as `prefill` takes it.
        methods: that will compress the prompt.
        ends: as `prefill` takes it, of the whole prompt.
    """
    plans, start = plan_layers(model.config), beginning.lengths[0]
    logits = beginning.logits
    if rest:
        layers = [
            RecordingLayer(plan, template_tokens, methods, before, ends=ends)
            for plan, before in zip(plans, beginning.layers, strict=True)
        ]
        ids = torch.tensor([list(rest)], device=logits.device)
        with torch.no_grad():
            output = model(
                input_ids=ids,
                position_ids=torch.arange(start, start + len(rest), device=ids.device)[None],
                past_key_values=Cache(layers=list(layers)),
                use_cache=True,
                logits_to_keep=1,
            )
        logits = output.logits[:, -1].float()
        prompts = [layer.prompt for layer in layers if layer.prompt is not None]
    else:
        prompts = [
            replace(layer, template_tokens=0, ends=ends, _evidence=[]) for layer in beginning.layers
        ]
        for prompt in prompts:
            prompt.record(methods)
    return Prefilled(model.config, logits, [[*beginning.ids[0], *rest]], prompts)


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
    check_method(method)
    check_prefilled(prefilled)
    if type(row) is not int or not 0 <= row < len(prefilled.ids):
        allowed = f"0 to {len(prefilled.ids) - 1}"
        raise UserError(f"row={row!r}", allowed=allowed, do="change row=")
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
    probes: Sequence[Sequence[int]] = (),
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
        probes: token ids for each prompt, all of one length, that are fed behind it: their
            attention takes the observation window's place ("Beyond RAG", arXiv 2503.04973).
            Nothing of them stays, and `logits` are not those behind the prompt.
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
    check_inputs(model.config, inputs)
    check_template(template_tokens)
    for method in methods or ():  # of a name, its first letter
        check_method(method)
    fed, mask = inputs["input_ids"], inputs.get("attention_mask")
    check_mask(mask, len(fed), fed.shape[1], exactly=True)
    if probes:
        fed = torch.cat([fed, torch.tensor([list(probe) for probe in probes]).to(fed.device)], 1)
        if mask is not None:
            mask = functional.pad(mask, (0, len(probes[0])), value=1)
    probe_tokens = len(probes[0]) if probes else 0
    layers = [
        RecordingLayer(plan, template_tokens, methods, probe_tokens=probe_tokens, ends=ends)
        for plan in plan_layers(model.config)
    ]
    padding = left_padding(mask, len(fed))
    positions = torch.arange(fed.shape[1], device=fed.device)
    offsets = torch.tensor(padding, device=positions.device)[:, None]
    with torch.no_grad():
        output = model(
            input_ids=fed,
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
