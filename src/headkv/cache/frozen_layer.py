"""A compressed layer whose tensors stay where they are, for a compiled or captured decode step.

Each step on a frozen cache is the same program: `torch.compile(model.forward, fullgraph=True)`
compiles it once, and a CUDA graph may replay it. A stock `generate` that goes on from such a cache
on a GPU compiles it by itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headkv.cache.prompt_layer import PromptLayer
from headkv.errors import UserError
from headkv.kernels import join
from headkv.kernels.frozen import Frozen, attend_filled
from headkv.kernels.ragged import Ragged


class FrozenLayer(PromptLayer):
    """A compressed prompt, and room for a fixed number of tokens behind it.

    How many there are is a number on the device, shared by all layers: no step of a decoding loop
    is another program than the one before, and none asks the device for anything.

    Args:
        layer: filled, with no tokens behind the prompt yet; its entries are not copied.
        room: tokens to make room for.

    Attributes:
        length: tokens that are there, int64 `[1]`, beside the keys.
        first: whether this layer is the first of a step, and counts.

    Raises:
        UserError: entries that no compiled step can read.
    """

    is_compileable = True

    def __init__(self, layer: PromptLayer, room: int) -> None:
        super().__init__(layer.plan, layer.template_tokens)
        prefix = getattr(layer, "prefix", None)
        if not isinstance(prefix, Ragged) or layer.until_cut is not None:
            raise UserError(
                "freezing entries of fewer bits, on the host, of sliding layers or cut again later",
                allowed="plain entries of full-attention layers",
                do="leave out bits=, offload= and decode_kv_size=, or do not freeze the cache",
            )
        heads = layer.token_cost[0]
        keys, values = (
            side.new_zeros(len(prefix.counts), heads, room, side.shape[1])
            for side in (prefix.keys, prefix.values)
        )
        self.prefix, self.frozen = prefix, Frozen.of(prefix)
        self.keys, self.values, self.first = keys, values, True
        self.length = torch.zeros(1, dtype=torch.int64, device=keys.device)
        self.seen, self.attended, self.is_initialized = layer.seen, True, True
        self.batch_size = len(prefix.counts)
        for buffer in (keys, values, self.length):
            torch._dynamo.mark_static_address(buffer)
        keys.headkv_layer = self  # type: ignore[attr-defined]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes to the tail, and returns all of it, `[batch, kv_head, room, head_dim]`."""
        tokens = key_states.shape[2]
        if self.first:
            self.length.add_(tokens)
        place = self.length - tokens + torch.arange(tokens, device=key_states.device)
        self.keys.index_copy_(2, place, key_states)
        self.values.index_copy_(2, place, value_states)
        return self.keys, self.values

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends over the compressed prompt and the tail, joined exactly; see `PromptLayer`."""
        past = self.frozen.attend(query, scaling, softcap)
        return join(past, attend_filled(query, keys, values, self.length, scaling, softcap))

    def get_seq_length(self) -> Any:
        """Tokens seen, padding included, int64 `[1]` on the device."""
        return self.length + self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """No mask is needed: which tokens are seen follows from their number."""
        return 0, 0

    def get_max_length(self) -> int:
        """Tokens that there is room for."""
        return self.seen + self.keys.shape[2]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Refused: other sequences would be other tensors."""
        raise UserError(
            "choosing or repeating sequences of a frozen cache",
            allowed="greedy and sampled decoding of all of them",
            do="do not freeze the cache",
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the latest tokens; only those after the prompt can be.

        Args:
            tokens_to_remove: minus their number.

        Raises:
            UserError: the number reaches into the compressed prompt.
        """
        if not self.first:
            return
        if not -self.tail_length <= tokens_to_remove <= 0:
            raise UserError(
                f"crop({tokens_to_remove}) reaches into the compressed prompt",
                allowed=f"-{self.tail_length} to 0",
                do="prefill the shorter prompt again",
            )
        self.length.add_(tokens_to_remove)

    def reset(self) -> None:
        """Forgets the tokens behind the prompt; the prompt stays."""
        self.length.zero_()

    @property
    def counts(self) -> Tensor:
        """Entries held of the prompt, `[batch, stored_head]`."""
        return self.prefix.counts

    @property
    def prompt_bytes(self) -> int:
        """What the entries of the prompt occupy."""
        return self.prefix.entry_bytes

    @property
    def row_bytes(self) -> list[int]:
        """See `PromptLayer`."""
        return self.prefix.row_bytes

    @property
    def tail_length(self) -> int:
        """Tokens since the prompt; asks the device."""
        return int(self.length)

    @property
    def nbytes(self) -> int:
        """Bytes held, room and lists included."""
        held = (*self.frozen.tensors(), self.keys, self.values)
        return sum(each.untyped_storage().nbytes() for each in held)


def freeze(layers: Sequence[PromptLayer], tokens: int) -> list[FrozenLayer]:
    """The same layers at fixed addresses, with room for further tokens.

    Args:
        layers: all of a cache, right after prefill.
        tokens: that will be fed at most.

    Raises:
        UserError: tokens came after the prompt, or a layer's entries are not plain.
    """
    held = max(getattr(layer, "tail_length", 0) for layer in layers)
    if tokens < 1 or held:
        raise UserError(
            f"freeze({tokens}) of a cache with {held} tokens behind the prompt",
            allowed="room for one token or more, right after prefill",
            do="call cache.freeze(max_new_tokens) before any token is fed",
        )
    frozen = [FrozenLayer(layer, tokens) for layer in layers]
    for layer in frozen[1:]:
        layer.first, layer.length = False, frozen[0].length
    return frozen


def not_frozen() -> UserError:
    """The refusal of a compiled step on a cache that is not frozen."""
    return UserError(
        "a compressed cache in a compiled forward pass",
        allowed="a cache after prefill and cache.freeze(max_new_tokens)",
        do="call the model that was given to torch.compile, or freeze the cache",
    )
