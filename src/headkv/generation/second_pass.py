"""A second pass: the prompt is read again over its finished cache, and what it attends to noted.

What a model looks at to read its own context once more tells what answers may need, whatever the
question (KVzip, arXiv 2505.23416). The second reading leaves nothing in the cache.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import PromptLayer
from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt
from headkv.errors import UserError
from headkv.kernels import soft_cap

CHUNK = 512  # tokens read again at a time; they see the prompt, and their own chunk causally


class ReadingLayer(PromptLayer):
    """Attends a chunk over a prompt and itself, and keeps the greatest weight of each token.

    Args:
        plan: the layer's part in the model.
        prompt: the layer's full keys and values; its `second` is written to.
        counts: tokens of the chunk of each sequence; what stands behind them is padding.
    """

    def __init__(self, plan: LayerPlan, prompt: LayerPrompt, counts: list[int]) -> None:
        super().__init__(plan, prompt.template_tokens)
        self.prompt, self.counts = prompt, counts
        self.seen, self.is_initialized = prompt.keys.shape[2], True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes the chunk's keys on, marked with this layer; they are not kept."""
        self.seen = self.prompt.keys.shape[2] + key_states.shape[2]
        key_states.headkv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """See `PromptLayer`; adds to the prompt's `second` what its tokens were paid at most."""
        prompt, count = self.prompt, query.shape[2]
        assert prompt.second is not None
        outputs = []
        for row, pad in enumerate(prompt.padding):
            all_keys = torch.cat([prompt.keys[row, :, pad:], keys[row]], 1).float()
            all_values = torch.cat([prompt.values[row, :, pad:], values[row]], 1).float()
            kv_heads, total = all_keys.shape[:2]
            rows = query[row].float().reshape(kv_heads, -1, query.shape[3]) * scaling
            logits = torch.bmm(rows, all_keys.transpose(1, 2)).view(-1, count, total)
            logits = soft_cap(logits, softcap)
            future = torch.ones(count, count, dtype=torch.bool, device=logits.device).triu(1)
            logits[:, :, total - count :].masked_fill_(future, float("-inf"))
            weights = logits.softmax(-1)
            if read := self.counts[row]:
                paid = weights[:, :read, : total - count].amax(1)
                prompt.second[row, :, pad:] = torch.maximum(prompt.second[row, :, pad:], paid)
            mixed = torch.bmm(weights.view(kv_heads, -1, total), all_values)
            outputs.append(mixed.view(-1, count, mixed.shape[2]).to(query.dtype))
        return torch.stack(outputs)

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
) -> None:
    """Reads every prompt of a batch again; each layer's `second` is filled.

    Args:
        model: the model of the prefill.
        layers: of the prefilled batch, all of them.
        plans: the layers' parts in the model.
        prompts: token ids of each prompt, padding left out.

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
    for layer in layers:
        shape = *layer.queries.shape[:2], layer.keys.shape[2]
        layer.note_second(torch.zeros(shape, dtype=torch.float32, device=layer.keys.device))
    for first in range(0, int(lengths.max()), CHUNK):
        pieces = [ids[first : first + CHUNK] for ids in prompts]
        width = max(map(len, pieces))
        # Shorter pieces are padded on the right, where no token of theirs sees the padding.
        ids = torch.tensor([piece + [0] * (width - len(piece)) for piece in pieces])
        counts = list(map(len, pieces))
        reading = [
            ReadingLayer(plan, layer, counts) for plan, layer in zip(plans, layers, strict=True)
        ]
        steps = torch.arange(width)
        with torch.no_grad():
            model(
                input_ids=ids.to(model.device),
                position_ids=(lengths[:, None] + steps).to(model.device),
                past_key_values=Cache(layers=list(reading)),
                use_cache=True,
                logits_to_keep=1,
            )
