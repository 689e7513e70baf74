"""A sliding-window layer of a model that has full ones too: its window, whole."""

from typing import Any

import torch
from torch import Tensor

from headkv.cache.layer_prompt import LayerPrompt
from headkv.cache.prompt_layer import PromptLayer
from headkv.errors import UserError
from headkv.kernels import causal_attention


class SlidingLayer(PromptLayer):
    """A sliding-window layer of a model that has full ones too: its window, whole."""

    _held: tuple[Tensor, Tensor]

    def receive(self, prompt: LayerPrompt) -> None:
        """Keeps what a later token can still see."""
        self.padding, self.seen = list(prompt.padding), prompt.keys.shape[2]
        self._keep(prompt.keys, prompt.values)
        lengths = [min(self.seen - pad, self._held[0].shape[2]) for pad in self.padding]
        self.counts = torch.tensor(lengths)[:, None].repeat(1, prompt.keys.shape[1])
        per_entry = sum(side.shape[3] * side.element_size() for side in self._held)
        self.prompt_bytes = int(self.counts.sum()) * per_entry
        self.is_initialized = True

    def _keep(self, keys: Tensor, values: Tensor) -> None:
        assert self.plan.window is not None
        start = max(keys.shape[2] - self.plan.window + 1, 0)
        self._held = (keys[:, :, start:].clone(), values[:, :, start:].clone())

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends new tokens and returns all that they can see.

        Args:
            key_states: `[batch, kv_head, new, head_dim]`.
            value_states: `[batch, kv_head, new, value_dim]`.

        Returns:
            Keys and values, `[batch, kv_head, window and new, ...]`.
        """
        if not self.is_initialized:
            return super().update(key_states, value_states)
        keys, values = (
            torch.cat([held, new], 2)
            for held, new in zip(self._held, (key_states, value_states), strict=True)
        )
        self._keep(keys, values)
        self.seen += key_states.shape[2]
        keys.headkv_layer = self  # type: ignore[attr-defined]
        return keys, values

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Causal attention within the window; padding that is still in it is left out."""
        padding = [pad - (self.seen - keys.shape[2]) for pad in self.padding]
        return causal_attention(query, keys, values, scaling, padding, softcap, self.plan.window)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuses to take tokens back: what the window has dropped cannot return.

        Raises:
            UserError: the number is not 0.
        """
        if tokens_to_remove == 0:
            return
        raise UserError(
            f"crop({tokens_to_remove}) on a sliding-window layer",
            allowed="models with full-attention layers only",
            do="prefill the shorter prompt again",
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        """See `PromptLayer`."""
        rows = (indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices).tolist()
        self.padding = [self.padding[row] for row in rows]
        self.counts = self.counts[rows]
        self._held = (self._held[0][rows], self._held[1][rows])

    def extend(self, others: list["SlidingLayer"]) -> None:
        """Takes over the windows of other layers as further sequences; they are emptied.

        Args:
            others: the same layer of other caches, prefilled with as many tokens.
        """
        layers = (self, *others)
        self.padding = [pad for layer in layers for pad in layer.padding]
        self.counts = torch.cat([layer.counts for layer in layers])
        keys, values = (torch.cat([layer._held[side] for layer in layers]) for side in (0, 1))
        self._held = (keys, values)
        for layer in others:
            layer.reset()

    def reset(self) -> None:
        """Forgets everything, ready for another prompt."""
        if self.is_initialized:
            del self._held
        self.seen, self.is_initialized, self.attended = 0, False, False

    @property
    def row_bytes(self) -> list[int]:
        """See `PromptLayer`."""
        counts = self.counts.sum(1).tolist()
        return [self.prompt_bytes * count // sum(counts) for count in counts]

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return len(self.padding)

    @property
    def nbytes(self) -> int:
        """Bytes that the window's keys and values occupy."""
        return sum(side.untyped_storage().nbytes() for side in self._held)
