"""`CompressedCache`: what a Hugging Face decoder is given instead of `DynamicCache`.

A layer holds the compressed prompt (`Ragged`, written once, right after the layer's own prefill
attention) and a tail of the tokens since, the same length in all heads. `attention.py` fills the
first and reads both.
"""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache.compressed_layer import CompressedLayer
from headkv.cache.layer_plan import plan_layers
from headkv.cache.layer_prompt import LayerPrompt
from headkv.cache.sliding_layer import SlidingLayer
from headkv.errors import UserError
from headkv.kernels.ragged import Ragged
from headkv.methods.method import Method
from headkv.records import text_config


class CompressedCache(Cache):
    """A cache that compresses the prompt, layer by layer, while it is prefilled.

    The prompt is what the first forward pass feeds; all later tokens are kept. Works with greedy
    and sampled generation, `num_return_sequences`, beam search, `crop` of generated tokens and
    further turns; assisted decoding, which feeds its drafts together with the prompt, is refused.

    Args:
        config: the model's config; the model must use `attn_implementation="headkv"`.
        method: from `build_method`.
        template_tokens: tokens of the chat template behind the user's text. The observation
            window ends before them, and they are kept on top, within the budget.

    Attributes:
        next_positions: of the first token after each prompt, where kept keys were rotated to other
            positions than theirs; None: as many as the prompt has tokens.

    Raises:
        UserError: the model has layers that cannot be compressed.

    Example:
        >>> cache = CompressedCache(model.config, method)
        >>> model.generate(**inputs, past_key_values=cache)
    """

    next_positions: list[int] | None = None

    def __init__(self, config: Any, method: Method, template_tokens: int = 0) -> None:
        plans = plan_layers(config)
        full = [layer for layer, plan in enumerate(plans) if plan.index is not None]
        if len(full) < len(plans):
            method = method.for_layers(full)
            if method.granularity == "query_head":
                raise UserError(
                    "granularity=query_head on a model with sliding-window layers",
                    allowed="kv_head",
                    do="set granularity=kv_head",
                )
        method.check_model(len(full), text_config(config).num_attention_heads)
        waiting: list[tuple[CompressedLayer, LayerPrompt]] | None = None
        if method.kv_size is not None and method.allocator.scope == "model":
            waiting = []
        super().__init__(
            layers=[
                SlidingLayer(plan, template_tokens)
                if plan.index is None
                else CompressedLayer(plan, template_tokens, method, waiting)
                for plan in plans
            ]
        )

    @property
    def _is_user_defined(self) -> bool:
        """Set by every `generate` that is given this cache, before it feeds anything."""
        return bool(self.__dict__.get("_given"))

    @_is_user_defined.setter
    def _is_user_defined(self, given: bool) -> None:
        # Nothing else tells a cache that a prompt comes in chunks: they look like further turns.
        settings = sys._getframe(1).f_locals.get("generation_config")
        if getattr(settings, "prefill_chunk_size", None) is not None:
            raise UserError(
                "a prompt in chunks, of which only the first would be compressed",
                allowed="prompts in one piece",
                do="leave out prefill_chunk_size=",
            )
        self._given = given

    @property
    def prefixes(self) -> list[Ragged]:
        """The compressed prompt of every compressed layer."""
        self._check_filled()
        held = (getattr(layer, "prefix", None) for layer in self.layers)
        return [prefix for prefix in held if isinstance(prefix, Ragged)]

    @property
    def branches(self) -> bool:
        """Whether tokens after the prompt may be those of several texts, and be taken back."""
        return all(layer.branches for layer in self.layers)

    @property
    def kept_tokens(self) -> Tensor:
        """Entries held of the prompt, int64 `[batch, layer, stored_head]`, on the CPU."""
        self._check_filled()
        return torch.stack([layer.counts for layer in self.layers], dim=1)

    @property
    def kept_bytes(self) -> int:
        """Bytes that the entries held of the prompt occupy."""
        self._check_filled()
        return sum(layer.prompt_bytes for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes really held: prompt, tail and its slack, offsets."""
        return sum(layer.nbytes for layer in self.layers)

    def activate_past_recording(self) -> None:
        """Called by assisted decoding, whose drafts would be compressed as part of the prompt."""
        raise UserError(
            "assisted decoding on a compressed cache",
            allowed="greedy, sampled and beam decoding",
            do="leave out assistant_model= and prompt_lookup_num_tokens=",
        )

    def _check_filled(self) -> None:
        if not all(layer.is_initialized for layer in self.layers):
            raise UserError(
                "the cache is empty", allowed="a cache after prefill", do="run the model first"
            )

    @staticmethod
    def stack(caches: list["CompressedCache"]) -> "CompressedCache":
        """Joins freshly compressed caches to one batch that is decoded together.

        The caches may differ in method and budget, not in granularity. They are used up: the
        first becomes the batch, the others are emptied.
        """
        first, *others = caches
        for index, layer in enumerate(first.layers):
            layer.extend([cache.layers[index] for cache in others])
        return first
