"""A full-attention layer: a ragged prompt, and a tail of all tokens since."""

import copy
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from headkv.cache.checks import check_window
from headkv.cache.cutter import Cutter, Joined, cut_layers, join_cutters, not_cut_again
from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt, compress_layers
from headkv.cache.prompt_layer import PromptLayer
from headkv.errors import UserError
from headkv.kernels import Prefix, attend, attend_token, causal_tail, join, serves
from headkv.kernels.offloaded import Tier
from headkv.kernels.prefixes import plain, stack, stored
from headkv.kernels.ragged import Ragged
from headkv.methods.method import Method

_SLACK = 100  # one spare tail token for this many held: at most 1 % of the cache is unused
_SMALL = 400  # tokens a head up to which the tail has no spare room at all


class CompressedLayer(PromptLayer):
    """A ragged prompt and a tail of all tokens since.

    Args:
        plan: the layer's part in the model.
        template_tokens: tokens of the chat template behind the user's text.
        method: decides what is kept.
        waiting: prompts of layers that wait for the model's last one, shared by all layers of a
            cache; None: each layer is compressed on its own.
        cutting: layers that wait likewise to be cut again while decoding.
        tier: the host's part of the cache, if entries live there.
        ends: see `PromptLayer`.
    """

    def __init__(
        self,
        plan: LayerPlan,
        template_tokens: int,
        method: Method,
        waiting: list[tuple["CompressedLayer", LayerPrompt]] | None = None,
        cutting: list["CompressedLayer"] | None = None,
        tier: Tier | None = None,
        ends: Tensor | None = None,
    ) -> None:
        super().__init__(plan, template_tokens, ends)
        self.method, self._waiting, self._cutting = method, waiting, cutting
        self.tier = tier
        self.branches = plan.window is None and method.decode_kv_size is None
        self.prefix = None
        self._tail: tuple[Tensor, Tensor] | None = None
        self._tail_length = 0
        self._mean = 0
        self._token_cost = 0, 0
        self.cutter: Cutter | None = None  # where entries are cut again while decoding

    @property
    def prefix(self) -> Prefix | None:
        """The compressed prompt; None before prefill."""
        return self._prefix

    @prefix.setter
    def prefix(self, prefix: Prefix | None) -> None:
        self._prefix = prefix
        self._by_token: bool | None = None  # whether `attend_token` serves it; asked at first use

    def receive(self, prompt: LayerPrompt) -> None:
        """Compresses; the full keys and values are freed with the attention call."""
        check_window(self.plan, prompt.keys.shape[2])
        self.seen = prompt.keys.shape[2]
        self.cutter = Cutter(prompt, self.method)
        sides = (prompt.keys, prompt.values)
        self._token_cost = sides[0].shape[1], sum(each[0, :, :1].nbytes for each in sides)
        if self._waiting is None:
            self._hold(self._stored(prompt.compress(self.method), self.method))
            return
        self._waiting.append((self, prompt))
        if len(self._waiting) == self.plan.total:
            layers, prompts = zip(*self._waiting, strict=True)
            self._waiting.clear()
            for layer, prefix in zip(layers, compress_layers(prompts, self.method), strict=True):
                layer._hold(layer._stored(prefix, self.method))

    def take(self, prefix: Ragged, tokens: int) -> None:
        """Takes a prompt that was compressed elsewhere.

        Args:
            prefix: its entries.
            tokens: its length.
        """
        if self.method.decode_kv_size is not None:
            raise not_cut_again("a context that was compressed for tasks")
        heads = prefix.counts.shape[1]
        self.seen, self._token_cost = tokens, (heads, heads * prefix.keys[:1].nbytes * 2)
        self._hold(self._stored(prefix, self.method))

    def _stored(self, entries: Ragged, method: Method) -> Prefix:
        return stored(entries, method.bits, method.offload, self.tier, self.plan.index or 0)

    def _hold(self, prefix: Prefix) -> None:
        self.prefix = prefix
        self._mean = int(prefix.counts.double().mean())
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends to the tail and returns all of it, `[batch, kv_head, tail, head_dim]`."""
        if self.prefix is None:
            return super().update(key_states, value_states)
        end = self._tail_length + key_states.shape[2]
        if self._mean + end < _SMALL:
            return self._append(key_states, value_states)
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

    def _append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends to a small tail, which is copied sooner than managed."""
        self.seen += keys.shape[2]
        if self._tail is not None:
            old_keys, old_values = self._tail
            if old_keys.shape[2] > self._tail_length:
                old_keys = old_keys[:, :, : self._tail_length]
                old_values = old_values[:, :, : self._tail_length]
            keys, values = torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)
        self._tail, self._tail_length = (keys, values), keys.shape[2]
        keys = keys.detach()  # another object: a layer is no attribute of what it holds itself
        keys.headkv_layer = self  # type: ignore[attr-defined]
        return keys, values

    def _grow(self, needed: int, *like: Tensor) -> None:
        """Makes room for `needed` tail tokens, with at most 1 % of the cache to spare."""
        spare = (self._mean + needed) // _SLACK
        grown = [new.new_empty(*new.shape[:2], needed + spare, new.shape[3]) for new in like]
        for old, new in zip(self._tail or (), grown, strict=False):
            new[:, :, : self._tail_length] = old[:, :, : self._tail_length]
        self._tail = (grown[0], grown[1])

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends over the compressed prompt and the tail, joined exactly; see `PromptLayer`.

        Raises:
            UserError: more tokens than the window of a model that has only sliding layers.
        """
        output = self._attend(query, keys, values, scaling, softcap)
        if self.cutter is not None and self.cutter.every:
            self.cutter.note(query)
            if self._tail_length >= self.cutter.every:
                self._cut()
        return output

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        prefix = self._prefix
        assert prefix is not None
        if self._by_token and query.shape[2] == 1 and self.mask is None:
            assert isinstance(prefix, Ragged)
            return attend_token(query, prefix, keys, values, scaling)
        if self.plan.window is not None:
            check_window(self.plan, self.seen)
        elif self._by_token is None and query.shape[2] == 1 and self.mask is None:
            self._by_token = isinstance(prefix, Ragged) and serves(query, prefix, softcap)
            return self._attend(query, keys, values, scaling, softcap)
        past = attend(query, prefix, scaling, softcap)
        return join(past, causal_tail(query, keys, values, scaling, softcap, seen=self.mask))

    def _cut(self) -> None:
        """The tail joins the entries, and each sequence's method cuts them again."""
        if self._cutting is None:
            layers = [self]
        else:
            self._cutting.append(self)
            if len(self._cutting) < self.plan.total:
                return
            layers = self._cutting.copy()
            self._cutting.clear()
        cut = cut_layers([layer._joined() for layer in layers])
        for layer, rows in zip(layers, cut, strict=True):
            assert layer.cutter is not None
            alike = groupby(zip(layer.cutter.methods, rows, strict=True), lambda pair: id(pair[0]))
            held = []
            for _, same in alike:
                methods, parts = zip(*same, strict=True)
                held.append(layer._stored(Ragged.stack(list(parts)), methods[0]))
            layer._hold(stack(held))
            layer._tail, layer._tail_length = None, 0
            layer.cutter.forget_queries()

    def _joined(self) -> list[Joined]:
        """Every sequence with its tail."""
        assert self._prefix is not None and self._tail is not None and self.cutter is not None
        prefix = plain(self._prefix, self._tail[0].dtype)
        tail = zip(*(side[:, :, : self._tail_length] for side in self._tail), strict=True)
        return [Joined(prefix, self.cutter, row, own, self.seen) for row, own in enumerate(tail)]

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the latest tokens; only those after the prompt can be.

        Args:
            tokens_to_remove: minus their number.

        Raises:
            UserError: the number reaches into the compressed prompt.
        """
        if self.cutter is not None and self.cutter.every and tokens_to_remove:
            raise not_cut_again(f"crop({tokens_to_remove})")
        if not -self._tail_length <= tokens_to_remove <= 0:
            raise UserError(
                f"crop({tokens_to_remove}) reaches into the compressed prompt",
                allowed=f"-{self._tail_length} to 0",
                do="prefill the shorter prompt again",
            )
        self._tail_length += tokens_to_remove
        self.seen += tokens_to_remove

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `PromptLayer`."""
        rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
        self.unpadded = False  # that sequence may be gone
        if self.prefix is not None:
            self.prefix = self.prefix.select(rows.tolist())
        if self.cutter is not None:
            self.cutter = self.cutter.fork()
            self.cutter.select(rows.tolist())
        if self._tail is not None:
            keys, values = (side[rows.to(side.device)] for side in self._tail)
            self._tail = (keys, values)

    def extend(self, others: list["CompressedLayer"]) -> None:
        """Takes over the prompts of other layers as further sequences; they are emptied.

        Args:
            others: the same layer of other freshly compressed caches of the same granularity.
        """
        parts = [layer.prefix for layer in (self, *others)]
        self.prefix = stack([part for part in parts if part is not None])
        self.tier = next((each.tier for each in (self, *others) if each.tier is not None), None)
        self.cutter = join_cutters([layer.cutter for layer in (self, *others)])
        together = [layer._cutting for layer in (self, *others) if layer._cutting is not None]
        self._cutting = together[0] if together else None
        self.branches = all(layer.branches for layer in (self, *others))
        for layer in others:
            layer.reset()

    def fork(self) -> "CompressedLayer":
        """See `PromptLayer`; recent queries are noted in each."""
        other = copy.copy(self)
        other.cutter = None if self.cutter is None else self.cutter.fork()
        return other

    @property
    def until_cut(self) -> int | None:
        """Tokens that can come before the entries are cut again; None: they are not."""
        every = 0 if self.cutter is None else self.cutter.every
        return every - self._tail_length if every else None

    def reset(self) -> None:
        """Forgets everything, ready for another prompt."""
        self.prefix, self._tail, self._tail_length, self.seen = None, None, 0, 0
        self.is_initialized, self.attended = False, False
        self.mask, self.cutter = None, None
        if self._waiting is not None:
            self._waiting.clear()

    @property
    def counts(self) -> Tensor:
        """Entries held of the prompt, `[batch, stored_head]`."""
        assert self.prefix is not None
        return self.prefix.counts

    @property
    def batch_size(self) -> int:
        """Sequences."""
        return self.counts.shape[0]

    @property
    def prompt_bytes(self) -> int:
        """What the entries of the prompt occupy."""
        return 0 if self.prefix is None else self.prefix.entry_bytes

    @property
    def row_bytes(self) -> list[int]:
        """See `PromptLayer`."""
        return [] if self.prefix is None else self.prefix.row_bytes

    @property
    def decoding_bytes(self) -> list[int]:
        """See `PromptLayer`; what a method must still see of the latest queries is counted."""
        rings = [0] * self.batch_size if self.cutter is None else self.cutter.row_bytes
        return [held + ring for held, ring in zip(self.row_bytes, rings, strict=True)]

    @property
    def tail_length(self) -> int:
        """Tokens since the prompt, or since the entries were cut last."""
        return self._tail_length

    @property
    def token_cost(self) -> tuple[int, int]:
        """See `PromptLayer`."""
        return self._token_cost

    @property
    def nbytes(self) -> int:
        """Bytes held, unused tail included."""
        prefix = 0 if self.prefix is None else self.prefix.nbytes
        prefix += 0 if self.cutter is None else self.cutter.nbytes
        return prefix + sum(side.untyped_storage().nbytes() for side in self._tail or ())
