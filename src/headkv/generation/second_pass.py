"""A second pass: tokens are fed to the finished cache, and what they attend to is noted.

What a model looks at to write its own context once more tells what answers may need, whatever the
question (KVzip, arXiv 2505.23416); so does what it looks at for the sake of usual tasks (KVCompose,
arXiv 2509.05165). Nothing of it stays in the cache. No matrix of all tokens and all tokens is
formed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from headkv.cache import PromptLayer
from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt
from headkv.errors import UserError
from headkv.generation.reading import Reading
from headkv.kernels import causal_tail, soft_cap

SINKS = 4  # first tokens that every chunk may look at beside itself
_PIECE = 256  # fed tokens whose weights are formed at a time


@dataclass(frozen=True)
class Feed:
    """What is fed at once, after each prompt of the batch.

    Attributes:
        ids: of each sequence, padding left out; empty: it has nothing left to read.
        seen: first and past-the-end prompt token of each sequence that attention is noted of.
        sinks: first tokens that it may look at besides, of each sequence.
        notes: of `evidence.SECOND_PASS`, what is noted.
    """

    ids: list[list[int]]
    seen: list[tuple[int, int]]
    sinks: list[int]
    notes: frozenset[str]


class ReadingLayer(PromptLayer):
    """Attends what is fed over a prompt and itself, and notes the greatest weight of each token.

    Args:
        plan: the layer's part in the model.
        prompt: the layer's full keys and values.
        feed: what is fed.
        second: written to: float32 `[batch, query_head, token]` by what is noted.

    Attributes:
        hidden: norm of what reaches the attention module, `[batch, fed token]`.
    """

    hidden: Tensor

    def __init__(
        self, plan: LayerPlan, prompt: LayerPrompt, feed: Feed, second: dict[str, Tensor]
    ) -> None:
        super().__init__(plan, prompt.template_tokens)
        self.prompt, self.feed, self.second = prompt, feed, second
        self.seen, self.is_initialized = prompt.keys.shape[2], True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes the keys on, marked with this layer; they are not kept."""
        self.seen = self.prompt.keys.shape[2] + key_states.shape[2]
        key_states.headkv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """See `PromptLayer`; notes what the prompt's tokens were paid at most."""
        prompt, outputs = self.prompt, []
        for row, pad in enumerate(prompt.padding):
            mine = slice(row, row + 1)
            all_keys = torch.cat([prompt.keys[mine, :, pad:], keys[mine]], 2)
            all_values = torch.cat([prompt.values[mine, :, pad:], values[mine]], 2)
            outputs.append(causal_tail(query[mine], all_keys, all_values, scaling, softcap)[0])
            if count := len(self.feed.ids[row]):
                self._note(row, query[row, :, :count], keys[row, :, :count], scaling, softcap)
        return torch.cat(outputs)

    def _note(
        self, row: int, queries: Tensor, fed: Tensor, scaling: float, softcap: float | None
    ) -> None:
        """Notes what one sequence pays, in a softmax over what it may see.

        Args:
            row: of the batch.
            queries: of what is fed, `[query_head, fed, head_dim]`.
            fed: its keys, `[kv_head, fed, head_dim]`.
            scaling: factor of the logits.
            softcap: soft cap of the logits.
        """
        (first, last), sinks = self.feed.seen[row], self.feed.sinks[row]
        pad = self.prompt.padding[row]
        own = self.prompt.keys[row, :, pad:]
        keys = torch.cat([own[:, :sinks], own[:, first:last], fed], 1).float()
        weighted = "weighted_repetition" in self.feed.notes
        norms = self._norms(row, first, last) if weighted else None
        kv_heads, total = keys.shape[:2]
        heads, count, dim = queries.shape
        for start in range(0, count, _PIECE):
            piece = queries[:, start : start + _PIECE]
            here = piece.shape[1]
            visible = total - count + start + here
            rows = piece.reshape(kv_heads, -1, dim).float() * scaling
            logits = torch.bmm(rows, keys[:, :visible].mT).view(heads, here, visible)
            logits = soft_cap(logits, softcap)
            future = torch.ones(here, here, dtype=torch.bool, device=logits.device).triu(1)
            logits[:, :, visible - here :].masked_fill_(future, float("-inf"))
            paid = logits.softmax(-1)[:, :, sinks : sinks + last - first]
            span = slice(pad + first, pad + last)
            for note in self.feed.notes:
                given = paid
                if note == "weighted_repetition" and norms is not None:
                    hidden = self.hidden[row, start : start + here].to(paid.device)
                    given = paid * norms[:, None] / hidden[None, :, None]
                noted = self.second[note][row, :, span]
                torch.maximum(noted, given.amax(1), out=noted)

    def _norms(self, row: int, first: int, last: int) -> Tensor:
        """Norms of values times the output projection, float32 `[query_head, last - first]`."""
        evidence = self.prompt.evidence[row]
        assert evidence.values is not None
        group = evidence.query_heads // evidence.kv_heads
        return torch.stack(
            [
                (evidence.values[head // group, first:last].float() @ part.float()).norm(dim=-1)
                for head, part in enumerate(evidence.output_projection)
            ]
        )

    def receive(self, prompt: LayerPrompt) -> None:
        """Never called: the prompt is there."""
        raise NotImplementedError

    def batch_select_indices(self, indices: Tensor) -> None:
        """Never called: a second pass decodes nothing."""
        raise NotImplementedError


def read_again(
    model: Any,
    layers: Sequence[LayerPrompt],
    plans: Sequence[LayerPlan],
    prompts: Sequence[list[int]],
    notes: frozenset[str],
    reading: Reading,
) -> None:
    """Feeds every prompt of a batch once more; each layer's `second` is filled.

    Args:
        model: the model of the prefill.
        layers: of the prefilled batch, all of them.
        plans: the layers' parts in the model.
        prompts: token ids of each prompt, padding left out.
        notes: what methods read, of `evidence.SECOND_PASS`.
        reading: what is fed.

    Raises:
        UserError: the model has sliding-window layers, whose early keys are gone by then.
    """
    if any(plan.window is not None for plan in plans):
        raise UserError(
            "a second pass over a model with sliding-window layers",
            allowed="models whose layers see the whole prompt",
            do="use a method that does not read one",
        )
    lengths = torch.tensor([len(ids) for ids in prompts])
    second: list[dict[str, Tensor]] = []
    for layer in layers:
        shape = layer.keys.shape[0], layer.queries.shape[1], layer.keys.shape[2]
        new = layer.keys.new_zeros
        second.append({note: new(shape, dtype=torch.float32) for note in notes})
    for feed in _feeds(prompts, notes, reading):
        width = max(map(len, feed.ids))
        # Shorter pieces are padded on the right, where no token of theirs sees the padding.
        ids = torch.tensor([piece + [0] * (width - len(piece)) for piece in feed.ids])
        reading_layers = [
            ReadingLayer(plan, layer, feed, found)
            for plan, layer, found in zip(plans, layers, second, strict=True)
        ]
        with torch.no_grad(), _hidden_norms(reading_layers):
            model(
                input_ids=ids.to(model.device),
                position_ids=(lengths[:, None] + torch.arange(width)).to(model.device),
                past_key_values=Cache(layers=list(reading_layers)),
                use_cache=True,
                logits_to_keep=1,
            )
    for layer, found in zip(layers, second, strict=True):
        layer.note_second(found)


def _feeds(prompts: Sequence[list[int]], notes: frozenset[str], reading: Reading) -> Iterator[Feed]:
    """What is fed, one portion after the other."""
    repeated = notes - {"task_prompts"}
    for first in range(0, max(map(len, prompts)) if repeated else 0, reading.chunk):
        chunks = [ids[first : first + reading.chunk] for ids in prompts]
        yield Feed(
            [
                [*reading.lead(ids, first), *chunk] if chunk else []
                for ids, chunk in zip(prompts, chunks, strict=True)
            ],
            [(first, first + len(chunk)) for chunk in chunks],
            [min(SINKS, first)] * len(prompts),
            repeated,
        )
    if "task_prompts" in notes:
        asked = [reading.questions(ids) for ids in prompts]
        for each in zip(*asked, strict=True):
            spans = [(0, len(ids)) for ids in prompts]
            yield Feed(list(each), spans, [0] * len(prompts), frozenset({"task_prompts"}))


@contextmanager
def _hidden_norms(layers: Sequence[ReadingLayer]) -> Iterator[None]:
    """Notes the norm of what reaches each attention module; nothing stays on the modules."""
    handles = []
    for layer in layers if "weighted_repetition" in layers[0].feed.notes else ():

        def note(module: nn.Module, args: Any, kwargs: Any, layer: ReadingLayer = layer) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            layer.hidden = states.float().norm(dim=-1)

        assert layer.prompt.parts is not None
        module = layer.prompt.parts.module
        handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
