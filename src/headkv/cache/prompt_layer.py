"""A cache layer that waits for the attention function to hand it the prompt."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from headkv.cache.layer_plan import LayerPlan
from headkv.cache.layer_prompt import LayerPrompt
from headkv.cache.module_parts import ModuleParts
from headkv.errors import UserError


class PromptLayer(CacheLayerMixin):
    """A layer that waits for the attention function to hand it the prompt.

    Queries never reach `update`, so the layer travels to the attention function as an attribute of
    the key tensor, which transformers passes on unchanged.

    Args:
        plan: the layer's part in the model.
        template_tokens: tokens of the chat template behind the user's text.
        ends: whether a span of the prompt ends with a token, bool `[batch, token]`; None: unknown.
    """

    is_croppable = False
    branches = False
    """Whether `mask` is heeded, and tokens after the prompt can be taken back."""
    mask: Tensor | None = None
    """Added to the logits of the tokens after the prompt instead of causality, 0 or -inf,
    `[batch, query, tail]`; set for one forward pass by who feeds tokens that are no one text."""

    def __init__(self, plan: LayerPlan, template_tokens: int, ends: Tensor | None = None) -> None:
        super().__init__()
        self.plan, self.template_tokens, self.ends = plan, template_tokens, ends
        self.seen = 0
        self.before: PromptLayer | None = None  # the layer before, where a cache has one
        self.attended = False  # whether the attention function has handed the prompt over
        self.unpadded = False  # whether a sequence of it is known to have no padding

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: storage is made once the prompt is known."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Passes the prompt's keys on, marked with this layer, and keeps no reference to them.

        Args:
            key_states: `[batch, kv_head, token, head_dim]`, after RoPE.
            value_states: `[batch, kv_head, token, value_dim]`.

        Raises:
            UserError: the prompt came before and was never handed over by the attention function.
        """
        if self.seen or (self.before is not None and not self.before.attended):
            raise UserError(
                "the prompt was never compressed: the model's attention function is not headkv's",
                allowed='attn_implementation="headkv"',
                do='load the model with attn_implementation="headkv"',
            )
        self.seen = key_states.shape[2]
        key_states.headkv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def finish_prefill(
        self,
        module: nn.Module,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        padding: list[int],
        scaling: float,
        softcap: float | None,
    ) -> None:
        """Hands the attended prompt to the layer; the attention function, which has it, calls this.

        Args:
            module: the attention module.
            query: `[batch, query_head, token, head_dim]`, after RoPE.
            keys: `[batch, kv_head, token, head_dim]`, the tensor that `update` returned.
            values: `[batch, kv_head, token, value_dim]`.
            padding: tokens of left padding of each sequence.
            scaling: factor of the logits.
            softcap: soft cap of the logits.

        Raises:
            UserError: the cache was made for a model of other query heads.
        """
        if self.plan.heads not in (None, query.shape[1]):
            raise UserError(
                f"a cache for {self.plan.heads} query heads was given to a model with "
                f"{query.shape[1]}",
                allowed="the cache of this model",
                do="make it with CompressedCache(model.config, method)",
            )
        self.attended, self.unpadded = True, min(padding) == 0
        # Or a layer that keeps them would be kept by them in turn.
        del keys.headkv_layer  # type: ignore[attr-defined]
        self.receive(
            LayerPrompt(
                query,
                keys,
                values,
                padding,
                self.plan.index or 0,
                self.plan.total,
                self.template_tokens,
                scaling,
                softcap,
                ModuleParts(module, query.shape[1]),
                ends=self.ends,
            )
        )

    def receive(self, prompt: LayerPrompt) -> None:
        """Takes what the layer wants of the prompt.

        Args:
            prompt: this layer's; its full keys are freed unless the layer keeps them.
        """
        raise NotImplementedError

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends tokens after the prompt.

        Args:
            query: `[batch, query_head, query, head_dim]`.
            keys: what `update` returned, `[batch, kv_head, token, head_dim]`.
            values: likewise.
            scaling: factor of the logits.
            softcap: soft cap of the logits.

        Returns:
            `[batch, query_head, query, value_dim]`.
        """
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follows beam search: keeps the sequences that it names, int64 `[batch]`."""
        self.batch_select_indices(beam_idx)

    def fork(self) -> Self:
        """The same layer in another object, which other tokens may be fed to."""
        return copy.copy(self)

    @property
    def until_cut(self) -> int | None:
        """Tokens that can come before entries are cut again; None: they never are."""
        return None

    @property
    def row_bytes(self) -> list[int]:
        """Bytes of the entries of each sequence, the tail not counted."""
        raise NotImplementedError

    @property
    def decoding_bytes(self) -> list[int]:
        """Bytes of each sequence while it is decoded, beside its tail: `row_bytes` and the like."""
        return self.row_bytes

    @property
    def token_cost(self) -> tuple[int, int]:
        """Entries and bytes that a further token adds to each sequence's tail."""
        return 0, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given sequences, in this order, once or more often each.

        Args:
            indices: int64 indices of sequences, or a bool mask over them.
        """
        raise NotImplementedError

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every sequence `repeats` times."""
        if self.is_initialized:
            self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))
