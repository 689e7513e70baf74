"""A context compressed in chunks for a probe, and kept keys rotated to contiguous positions.

After "Beyond RAG" (arXiv 2503.04973), which runs FINCH offline: each chunk is read with what the
earlier ones left and with the probe behind it, whose attention says what stays. How many entries
stay after a chunk is ours: `kv_size` in equal steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import CompressedCache, PromptLayer
from headkv.cache.layer_plan import LayerPlan, plan_layers
from headkv.cache.layer_prompt import LayerPrompt, keep_layers
from headkv.cache.module_parts import ModuleParts
from headkv.errors import UserError
from headkv.generation.prefill import Prefilled
from headkv.kernels import attend, causal_tail, join
from headkv.kernels.ragged import Ragged
from headkv.methods import Evidence, Method
from headkv.methods.entries.base import Entries


@dataclass
class Held:
    """What a layer keeps of one sequence, by stored head.

    Attributes:
        keys: `[entries, head_dim]` each.
        values: `[entries, value_dim]` each.
        positions: to which keys are rotated, int64 `[entries]` each.
    """

    keys: list[Tensor]
    values: list[Tensor]
    positions: list[Tensor]

    @property
    def counts(self) -> list[int]:
        """Entries of each head."""
        return [len(each) for each in self.positions]

    def ragged(self, bias: Tensor | None = None) -> Ragged:
        """The same end to end."""
        counts = torch.tensor([self.counts])
        return Ragged(torch.cat(self.keys), torch.cat(self.values), counts, bias)

    def rotate(self, parts: ModuleParts, end: int) -> None:
        """Rotates the keys, so that every head's entries lie side by side and end before `end`."""
        for head, (keys, old) in enumerate(zip(self.keys, self.positions, strict=True)):
            new = torch.arange(end - len(old), end, device=old.device)
            # Undoing the rotation of a difference is rotating back by it; lengths must not change.
            turned = parts.unrotate(keys[None].float(), old - new)[0]
            size = keys.float().norm(dim=1, keepdim=True)
            turned = turned * (size / turned.norm(dim=1, keepdim=True).clamp(min=1e-12))
            self.keys[head], self.positions[head] = turned.to(keys.dtype), new


class ChunkLayer(PromptLayer):
    """Attends a chunk and its probe over what earlier chunks left, and remembers them.

    Args:
        plan: the layer's part in the model.
        held: of the earlier chunks; None: there were none.

    Attributes:
        read: the chunk and the probe, as one prompt.
    """

    read: LayerPrompt

    def __init__(self, plan: LayerPlan, held: Held | None) -> None:
        super().__init__(plan, 0)
        self.held = None if held is None else held.ragged()
        self.seen = self._before = 0 if held is None else max(held.counts)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes the keys on, marked with this layer."""
        self.seen = self._before + key_states.shape[2]
        key_states.headkv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """See `PromptLayer`."""
        assert self.held is not None
        self.read = LayerPrompt(
            query, keys, values, [0], self.plan.index or 0, self.plan.total, 0, scaling, softcap
        )
        tail = causal_tail(query, keys, values, scaling, softcap)
        return join(attend(query, self.held, scaling, softcap), tail)

    def receive(self, prompt: LayerPrompt) -> None:
        """Takes the first chunk."""
        self.read = prompt

    def batch_select_indices(self, indices: Tensor) -> None:
        """Never called: nothing is decoded."""
        raise NotImplementedError


def compress_in_chunks(
    model: Any,
    prompts: Sequence[Sequence[int]],
    method: Method,
    probes: Sequence[Sequence[int]],
    chunks: int,
    rerotate: bool = False,
) -> CompressedCache:
    """The cache of contexts that are read chunk by chunk, each in the light of its probe.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        prompts: token ids of each context.
        method: decides what stays after each chunk, at its part of `kv_size`.
        probes: token ids of each probe; they are dropped.
        chunks: how many, of equal length but for the last.
        rerotate: whether what stays is rotated to contiguous positions after each chunk, so that
            the model never sees a position beyond `kv_size` and a chunk.

    Raises:
        UserError: the method or the model cannot be run so.
    """
    _check(model, method, chunked=True)
    rows: list[list[Ragged]] = []
    ends = []
    for prompt, probe in zip(prompts, probes, strict=True):
        layers, end = None, 0
        parts: list[Any] = []
        size = math.ceil(len(prompt) / chunks)
        pieces = [list(prompt[first : first + size]) for first in range(0, len(prompt), size)]
        for number, piece in enumerate(pieces, 1):
            read = _read(model, piece, probe, layers, end)
            parts = parts or [prompt.parts for prompt in read]
            share = math.ceil((method.kv_size or 0) * number / len(pieces))
            step = replace(method, kv_size=max(share, method.window_size + 1))
            layers = _cut(read, parts, layers, step, len(piece), end)
            end += len(piece)
            if rerotate:
                end = max(max(held.counts) for held in layers)
                for held, part in zip(layers, parts, strict=True):
                    held.rotate(part, end)
        assert layers is not None
        rows.append([held.ragged() for held in layers])
        ends.append(end)
    return _filled(model.config, method, rows, list(map(len, prompts)), ends)


def compress_contiguous(prefilled: Prefilled, method: Method) -> CompressedCache:
    """What `prefilled.compress` keeps, with its keys rotated to contiguous positions.

    Raises:
        UserError: the method or the model cannot be run so.
    """
    layers = prefilled.layers
    _check(prefilled, method, chunked=False)
    if method.kv_size is None:
        return prefilled.compress(method)
    rows: list[list[Ragged]] = []
    ends = []
    for row in range(len(prefilled.lengths)):
        kept = keep_layers(layers, method, row)
        end = max(int(each.counts.max()) for each in kept)
        rows.append([])
        for layer, each in zip(layers, kept, strict=True):
            prefix = method.entries.gather(layer.evidence[row], each)
            counts = each.counts.tolist()
            held = Held(
                list(prefix.keys.split(counts)),
                list(prefix.values.split(counts)),
                each.by_head(),
            )
            assert layer.parts is not None
            held.rotate(layer.parts, end)
            rows[-1].append(held.ragged(prefix.bias))
        ends.append(end)
    return _filled(prefilled.config, method, rows, prefilled.lengths, ends)


def _check(model: Any, method: Method, chunked: bool) -> None:
    """Raises `UserError` for what is not done chunk by chunk, or not rotated."""
    unable = {
        "a model with sliding-window layers": any(
            plan.window is not None for plan in plan_layers(model.config)
        ),
        "granularity=query_head": chunked and method.granularity != "kv_head",
        f"entries {method.entries.name}": chunked and type(method.entries) is not Entries,
        f"{method.name}, which reads {', '.join(sorted(method.needs))}": chunked
        and bool(method.needs - {"values", "output_projection"}),
    }
    for what, given in unable.items():
        if given:
            raise UserError(
                f"probe_chunks or rerotate with {what}",
                allowed="full attention; for chunks kv_head and scores of window, keys and values",
                do="set probe_chunks=1 rerotate=false, or use another method",
            )


def _read(
    model: Any, piece: list[int], probe: Sequence[int], held: list[Held] | None, start: int
) -> list[LayerPrompt]:
    """Feeds a chunk and its probe; what they left in each layer, the probe set apart."""
    plans = plan_layers(model.config)
    layers = [
        ChunkLayer(plan, None if held is None else held[place]) for place, plan in enumerate(plans)
    ]
    ids = torch.tensor([[*piece, *probe]], device=model.device)
    with torch.no_grad():
        model(
            input_ids=ids,
            position_ids=start + torch.arange(ids.shape[1], device=ids.device)[None],
            past_key_values=Cache(layers=list(layers)),
            use_cache=True,
            logits_to_keep=1,
        )
    return [layer.read.without_probe(len(probe)) for layer in layers]


def _cut(
    read: list[LayerPrompt],
    parts: list[Any],
    held: list[Held] | None,
    method: Method,
    tokens: int,
    start: int,
) -> list[Held]:
    """What stays of earlier chunks and the one just read.

    Heads that hold fewer entries than others are filled up between the earlier ones and the chunk,
    with rows that are told to be absent.
    """
    width = 0 if held is None else max(max(each.counts) for each in held)
    seen, places = [], []
    for layer, prompt in enumerate(read):
        keys, values, device = prompt.keys[0], prompt.values[0], prompt.keys.device
        here = torch.arange(start, start + tokens, device=device)
        before = [keys.new_zeros(len(keys), width, side.shape[2]) for side in (keys, values)]
        old = torch.full((len(keys), width), -1, device=device)
        for head, count in enumerate([] if held is None else held[layer].counts):
            own = held[layer]  # type: ignore[index]
            before[0][head, :count], before[1][head, :count] = own.keys[head], own.values[head]
            old[head, :count] = own.positions[head]
        positions = torch.cat([old, here.expand(len(keys), -1)], 1)
        places.append(positions)
        assert prompt.probe is not None
        seen.append(
            Evidence(
                prompt.queries[0],
                torch.cat([before[0], keys], 1),
                layer,
                torch.cat([before[1], values], 1),
                len(read),
                0,
                prompt.scaling,
                prompt.softcap,
                project=parts[layer].output_projection,
                probe=(prompt.probe[0][0], prompt.probe[1][0]),
                absent=positions < 0,
            )
        )
    with torch.no_grad():
        chosen = method.keep_model(seen)
    left = []
    for evidence, kept, positions in zip(seen, chosen, places, strict=True):
        assert evidence.values is not None
        heads = [each[positions[head, each] >= 0] for head, each in enumerate(kept.by_head())]
        left.append(
            Held(
                [evidence.keys[head, each] for head, each in enumerate(heads)],
                [evidence.values[head, each] for head, each in enumerate(heads)],
                [positions[head, each] for head, each in enumerate(heads)],
            )
        )
    return left


def _filled(
    config: Any, method: Method, rows: list[list[Ragged]], lengths: list[int], ends: list[int]
) -> CompressedCache:
    """A cache that holds these entries, `[sequence][layer]`."""
    cache = CompressedCache(config, method)
    for place, layer in enumerate(cache.layers):
        layer.take(Ragged.stack([row[place] for row in rows]), max(lengths))
    cache.next_positions = ends
    return cache
