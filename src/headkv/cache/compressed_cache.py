"""`CompressedCache`: what a Hugging Face decoder is given instead of `DynamicCache`.

A layer holds the compressed prompt (`Ragged`, written once, right after the layer's own prefill
attention) and a tail of the tokens since, the same length in all heads. `attention.py` fills the
first and reads both.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache.announced import announced, check_announced
from headkv.cache.checks import check_ends, check_inputs, check_method, check_template
from headkv.cache.compressed_layer import CompressedLayer
from headkv.cache.frozen_layer import freeze, not_frozen
from headkv.cache.layer_plan import plan_layers
from headkv.cache.layer_prompt import POSITION, LayerPrompt
from headkv.cache.prompt_layer import PromptLayer
from headkv.cache.sliding_layer import SlidingLayer
from headkv.errors import UserError
from headkv.kernels import Prefix
from headkv.kernels.offloaded import Tier
from headkv.methods.method import Method
from headkv.records import text_config


class CompressedCache(Cache):
    """A cache that compresses the prompt, layer by layer, while it is prefilled.

    The prompt is what the first forward pass feeds; all later tokens are kept. Works with greedy
    and sampled generation, `num_return_sequences`, beam search, `crop` of generated tokens and
    further turns, whose tokens begin with those of the turns before; another prompt on a used cache
    and assisted decoding, which feeds its drafts together with the prompt, are refused.

    Args:
        config: the model's config; the model must use `attn_implementation="headkv"`.
        method: from `build_method`.
        template_tokens: tokens of the chat template behind the user's text. The observation
            window ends before them, and they are kept on top, within the budget.
        ends: for scorers that read where the prompt's sentences end: whether one does with a
            token, bool `[batch, token]`, from `headkv.span_ends(tokenizer, input_ids)`.

    Attributes:
        next_positions: of the first token after each prompt, where kept keys were rotated to other
            positions than theirs; None: as many as the prompt has tokens.
        text: token ids of the prompt, or of the last turn with all before it, `[sequence, token]`;
            None: unknown, as in forward passes outside `generate`.

    Raises:
        UserError: the model has layers that cannot be compressed.

    Example:
        >>> cache = CompressedCache(model.config, method)
        >>> model.generate(**inputs, past_key_values=cache)
    """

    layers: list[Any]

    next_positions: list[int] | None = None
    text: Tensor | None = None

    def __init__(
        self,
        config: Any,
        method: Method,
        template_tokens: int = 0,
        ends: Tensor | None = None,
    ) -> None:
        plans = plan_layers(config)
        check_method(method)
        check_template(template_tokens)
        check_ends(ends)
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
        tier = None if method.offload is None else Tier()
        cutting: list[CompressedLayer] | None = None
        if method.decode_kv_size is not None and method.allocator.scope == "model":
            cutting = []
        super().__init__(
            layers=[
                SlidingLayer(plan, template_tokens)
                if plan.index is None
                else CompressedLayer(plan, template_tokens, method, waiting, cutting, tier, ends)
                for plan in plans
            ]
        )
        for before, layer in pairwise(self.layers):
            layer.before = before
        self._config = text = text_config(config)
        self._shape = (getattr(text, "num_key_value_heads", None), getattr(text, "head_dim", None))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See `PromptLayer.update`.

        Raises:
            UserError: the cache was made for a model of another shape, or holds other sequences.
        """
        if torch.compiler.is_compiling():
            if not self.is_compileable:
                raise not_frozen()
            return self.layers[layer_idx].update(key_states, value_states, *args, **kwargs)
        if layer_idx >= len(self.layers):
            raise self._foreign(f"layer {layer_idx}")
        layer = self.layers[layer_idx]
        if layer_idx == 0:
            self._check_fits(layer, key_states)
        return layer.update(key_states, value_states, *args, **kwargs)

    def _check_fits(self, first: PromptLayer, keys: Tensor) -> None:
        """Raises `UserError` where new tokens are of another model or of another batch."""
        if not first.is_initialized:
            shape = keys.shape[1], keys.shape[3]
            if any(own not in (None, given) for own, given in zip(self._shape, shape, strict=True)):
                raise self._foreign(f"{shape[0]} KV heads of {shape[1]} dimensions")
            return
        if not self.layers[-1].is_initialized:
            raise self._foreign("fewer layers")
        held = first.batch_size
        if held != keys.shape[0]:
            raise UserError(
                f"{keys.shape[0]} sequences on a cache that holds {held}",
                allowed="further tokens of the same sequences",
                do="make a CompressedCache for every prompt, or call cache.reset()",
            )

    def _foreign(self, what: str) -> UserError:
        """The refusal of a model with something that the cache's config does not have."""
        heads = " of {} KV heads of {} dimensions".format(*self._shape)
        return UserError(
            f"a cache for {len(self.layers)} layers{heads} was given to a model with {what}",
            allowed="the cache of this model",
            do="make it with CompressedCache(model.config, method)",
        )

    @property
    def _is_user_defined(self) -> bool:
        """Set by every `generate` that is given this cache, before it feeds anything."""
        return bool(self.__dict__.get("_given"))

    @_is_user_defined.setter
    def _is_user_defined(self, given: bool) -> None:
        told = announced()
        if told is not None:
            self.text = check_announced(told, self.text, self.get_seq_length())
            if told.ids is not None:
                check_inputs(self._config, {"input_ids": told.ids})
        self._given = given

    def freeze(self, tokens: int) -> None:
        """Makes room for further tokens at fixed addresses, so that a decode step can be compiled.

        Call it after prefill. See `headkv.cache.frozen_layer`.

        Args:
            tokens: that will be fed at most; more are an error of the device.

        Raises:
            UserError: the cache is empty, tokens came after the prompt, or its entries are not
                plain.
        """
        self._check_filled()
        self.layers: list[Any] = freeze(self.layers, tokens)

    @property
    def prefixes(self) -> list[Prefix]:
        """The compressed prompt of every compressed layer."""
        self._check_filled()
        held = (getattr(layer, "prefix", None) for layer in self.layers)
        return [prefix for prefix in held if prefix is not None]

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
    def until_cut(self) -> int | None:
        """Tokens that can come before entries are cut again; None: they never are."""
        known = [layer.until_cut for layer in self.layers if layer.until_cut is not None]
        return min(known, default=None)

    @property
    def tail_length(self) -> int:
        """Tokens since the prompt, or since the entries were cut last."""
        return max(getattr(layer, "tail_length", 0) for layer in self.layers)

    @property
    def cut_every(self) -> int | None:
        """Tokens between two cuts; None: there are none."""
        cutters = [getattr(layer, "cutter", None) for layer in self.layers]
        return next((each.every for each in cutters if each is not None and each.every), None)

    @property
    def positions(self) -> list[list[list[Tensor]]]:
        """Positions of the entries cut last, `[batch][layer][stored_head]`, the tail not counted.

        Raises:
            UserError: the method has no `decode_kv_size`; then see `headkv.kept_positions`.
        """
        columns = [getattr(prefix, "columns", {}) for prefix in self.prefixes]
        if any(POSITION not in each for each in columns):
            raise UserError(
                "positions of a cache that does not record them",
                allowed="methods with decode_kv_size",
                do="use headkv.kept_positions(prefilled, method)",
            )
        layers = [
            known[POSITION].cpu().split(prefix.lengths)
            for known, prefix in zip(columns, self.prefixes, strict=True)
        ]
        heads = [prefix.counts.shape[1] for prefix in self.prefixes]
        return [
            [list(each[row * n : (row + 1) * n]) for each, n in zip(layers, heads, strict=True)]
            for row in range(len(self.prefixes[0].counts))
        ]

    @property
    def tier(self) -> Tier | None:
        """The host's part, if entries live there: what of them is on the device, and was at most.

        Of stacked caches that of the first that has one.
        """
        tiers = [getattr(layer, "tier", None) for layer in self.layers]
        return next((tier for tier in tiers if tier is not None), None)

    @property
    def nbytes(self) -> int:
        """Bytes really held, on the device and the host: prompt, tail and its slack, offsets."""
        fetched = 0 if self.tier is None else self.tier.resident_bytes
        return fetched + sum(layer.nbytes for layer in self.layers)

    def reset(self) -> None:
        """Empties the cache: the next prompt is another."""
        super().reset()
        self.text = None

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
        if not caches or len(set(map(id, caches))) < len(caches):
            raise UserError(
                "the same cache twice" if caches else "no cache",
                allowed="one cache or more, each once",
                do="call prefilled.compress(method) for each",
            )
        kinds = {_stored(cache) for cache in caches}
        if None in kinds or len(kinds) > 1:
            raise UserError(
                "caches of several granularities" if None not in kinds else "a used-up cache",
                allowed="caches fresh from prefilled.compress, of one granularity",
                do="call prefilled.compress(method) again, or decode them apart",
            )
        first, *others = caches
        for index, layer in enumerate(first.layers):
            layer.extend([cache.layers[index] for cache in others])
        return first


def _stored(cache: CompressedCache) -> int | None:
    """Stored heads a layer of a freshly compressed cache; None if it is used."""
    layer = next(each for each in cache.layers if isinstance(each, CompressedLayer))
    return None if layer.prefix is None or layer.tail_length else layer.counts.shape[1]
