"""`CompressedCache`: what a Hugging Face decoder is given instead of `DynamicCache`.

A layer holds the compressed prompt (`Ragged`, written once, right after the layer's own prefill
attention) and a tail of the tokens since, the same length in all heads. `attention.py` fills the
first and reads both.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from headkv.errors import UserError
from headkv.kernels import attend, causal_tail, join
from headkv.layer_prompt import LayerPrompt
from headkv.methods.base import Method
from headkv.ragged import Ragged

_SLACK = 100  # one spare tail token for this many held: at most 1 % of the cache is unused


class PromptLayer(CacheLayerMixin):
    """A layer that waits for the attention function to hand it the prompt.

    Queries never reach `update`, so the layer travels to the attention function as an attribute of
    the key tensor, which transformers passes on unchanged.
    """

    is_croppable = False

    def __init__(self, layer: int, num_layers: int, template_tokens: int) -> None:
        super().__init__()
        self.layer, self.num_layers, self.template_tokens = layer, num_layers, template_tokens
        self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: storage is made once the prompt is known."""
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes the prompt's keys on, marked with this layer, and keeps no reference to them."""
        if self.seen:
            raise UserError(
                "a second chunk of tokens reached a cache whose prompt was never compressed: the "
                "model's attention function is not headkv's",
                allowed='attn_implementation="headkv"',
                do='load the model with attn_implementation="headkv"',
            )
        self.is_initialized = True
        self.seen = key_states.shape[2]
        key_states.headkv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def finish_prefill(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        padding: list[int],
        scaling: float,
        softcap: float | None,
    ) -> None:
        """Called by the attention function, which has the queries, once the prompt is attended."""
        self.receive(
            LayerPrompt(
                query, keys, values, padding, self.layer, self.num_layers,
                self.template_tokens, scaling, softcap,
            )
        )  # fmt: skip

    def receive(self, prompt: LayerPrompt) -> None:
        """What to do with the prompt."""
        raise NotImplementedError

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of tokens after the prompt; `keys` and `values` are what `update` returned."""
        raise NotImplementedError

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask: tokens seen, whatever is still held."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen, padding included; positions are counted from it."""
        return self.seen

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class CompressedLayer(PromptLayer):
    """One layer of `CompressedCache`.

    Attributes:
        prefix: the compressed prompt; None before prefill.
    """

    def __init__(self, method: Method, layer: int, num_layers: int, template_tokens: int) -> None:
        super().__init__(layer, num_layers, template_tokens)
        self.method = method
        self.prefix: Ragged | None = None
        self._tail: tuple[Tensor, Tensor] | None = None
        self._tail_length = 0

    def receive(self, prompt: LayerPrompt) -> None:
        """Compresses; the full keys and values are freed with the attention call."""
        self.adopt(prompt.compress(self.method), prompt.keys.shape[2])

    def adopt(self, prefix: Ragged, seen: int) -> None:
        """Takes a compressed prompt of `seen` tokens, padding included."""
        self.prefix, self.seen, self.is_initialized = prefix, seen, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends to the tail and returns all of it, `[batch, kv_head, tail, head_dim]`."""
        if self.prefix is None:
            return super().update(key_states, value_states)
        end = self._tail_length + key_states.shape[2]
        if self._tail is None or end > self._tail[0].shape[2]:
            self._grow(end, key_states, value_states)
        assert self._tail is not None
        keys, values = self._tail
        keys[:, :, self._tail_length : end] = key_states
        values[:, :, self._tail_length : end] = value_states
        self.seen += key_states.shape[2]
        self._tail_length = end
        keys = keys[:, :, :end]
        keys.headkv_layer = self  # type: ignore[attr-defined]
        return keys, values[:, :, :end]

    def _grow(self, needed: int, *like: Tensor) -> None:
        """Makes room for `needed` tail tokens, with at most 1 % of the cache to spare."""
        assert self.prefix is not None
        held = int(self.prefix.counts.double().mean()) + needed
        grown = [
            new.new_empty(*new.shape[:2], needed + held // _SLACK, new.shape[3]) for new in like
        ]
        for old, new in zip(self._tail or (), grown, strict=False):
            new[:, :, : self._tail_length] = old[:, :, : self._tail_length]
        self._tail = (grown[0], grown[1])

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention over the compressed prompt and the tail, joined exactly.

        Args:
            query: `[batch, query_head, query, head_dim]`.
            keys: the tail, `[batch, kv_head, tail, head_dim]`.
            values: `[batch, kv_head, tail, value_dim]`.
            scaling: factor of the logits.
        """
        assert self.prefix is not None
        prefix = attend(query, self.prefix, scaling)
        return join(prefix, causal_tail(query, keys, values, scaling))

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the latest `-tokens_to_remove` tokens; only generated ones can be forgotten."""
        if tokens_to_remove == 0:
            return
        if tokens_to_remove > 0 or -tokens_to_remove > self._tail_length:
            raise UserError(
                f"crop({tokens_to_remove}) reaches into the compressed prompt",
                allowed=f"-{self._tail_length} to 0",
                do="prefill the shorter prompt again",
            )
        self._tail_length += tokens_to_remove
        self.seen += tokens_to_remove

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given sequences, in this order, once or more often each."""
        rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
        if self.prefix is not None:
            self.prefix = self.prefix.select(rows.tolist())
        if self._tail is not None:
            keys, values = (side[rows.to(side.device)] for side in self._tail)
            self._tail = (keys, values)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: beams of one prompt share it, so this copies what they share."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every sequence `repeats` times."""
        if self.prefix is not None:
            rows = torch.arange(self.prefix.counts.shape[0])
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Forgets everything, ready for another prompt."""
        self.prefix, self._tail, self._tail_length, self.seen = None, None, 0, 0
        self.is_initialized = False

    @property
    def nbytes(self) -> int:
        """Bytes held, unused tail included."""
        prefix = 0 if self.prefix is None else self.prefix.nbytes
        return prefix + sum(side.untyped_storage().nbytes() for side in self._tail or ())


class CompressedCache(Cache):
    """A cache that compresses the prompt, layer by layer, while it is prefilled.

    Args:
        config: the model's config; the model must use `attn_implementation="headkv"`.
        method: from `build_method`.
        template_tokens: tokens of the chat template behind the user's text. The observation
            window ends before them, and they are kept on top, within the budget.

    Example:
        >>> cache = CompressedCache(model.config, method)
        >>> model.generate(**inputs, past_key_values=cache)
    """

    def __init__(self, config: Any, method: Method, template_tokens: int = 0) -> None:
        num_layers = text_config(config).num_hidden_layers
        super().__init__(
            layers=[
                CompressedLayer(method, layer, num_layers, template_tokens)
                for layer in range(num_layers)
            ]
        )

    @property
    def prefixes(self) -> list[Ragged]:
        """The compressed prompt of every layer."""
        held = [layer.prefix for layer in self.layers]
        if any(prefix is None for prefix in held):
            raise UserError(
                "the cache is empty", allowed="a cache after prefill", do="run the model first"
            )
        return held

    @property
    def kept_tokens(self) -> Tensor:
        """Entries held of the prompt, int64 `[batch, layer, stored_head]`."""
        return torch.stack([prefix.counts for prefix in self.prefixes], dim=1)

    @property
    def nbytes(self) -> int:
        """Bytes really held: prompt, tail and its slack, offsets."""
        return sum(layer.nbytes for layer in self.layers)

    @staticmethod
    def stack(config: Any, caches: list["CompressedCache"]) -> "CompressedCache":
        """Rows of freshly compressed caches as one batch to decode together.

        The caches may differ in method and budget, not in granularity, and give their storage up
        to the batch.
        """
        joined = CompressedCache(config, caches[0].layers[0].method)
        for index, layer in enumerate(joined.layers):
            parts = [cache.layers[index] for cache in caches]
            layer.adopt(Ragged.stack([part.prefix for part in parts]), parts[0].seen)
            for part in parts:
                part.reset()
        return joined


def text_config(config: Any) -> Any:
    """The config of the decoder, which multimodal models wrap in another."""
    return config.get_text_config(decoder=True)
