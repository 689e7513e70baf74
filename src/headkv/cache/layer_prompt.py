"""One layer of a prefilled prompt: what compression reads, whichever way the prefill ran."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headkv.kernels.ragged import Ragged
from headkv.methods.evidence import Observation
from headkv.methods.method import Method


@dataclass
class LayerPrompt:
    """The full keys and values of one layer, and the queries at the end of the prompt.

    Attributes:
        queries: after RoPE, `[batch, query_head, last queries, head_dim]`; at least the
            observation window and the template's tail.
        keys: after RoPE, left-padded, `[batch, kv_head, token, head_dim]`.
        values: `[batch, kv_head, token, value_dim]`.
        padding: tokens of left padding of each sequence.
        layer: index among the layers that are compressed.
        num_layers: how many are.
        template_tokens: tokens behind the user's text.
        scaling: factor of the attention logits.
        softcap: soft cap of the attention logits.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    padding: list[int]
    layer: int
    num_layers: int
    template_tokens: int
    scaling: float
    softcap: float | None
    _observed: dict[int, list[Observation]] = field(default_factory=dict, repr=False)

    def observe(self, window_size: int) -> list[Observation]:
        """What a method with this window sees, one for each sequence; shared between methods."""
        if window_size not in self._observed:
            end = self.queries.shape[2] - self.template_tokens
            window = self.queries[:, :, max(end - window_size, 0) : end]
            self._observed[window_size] = [
                Observation(
                    queries[
                        :, max(window_size - (keys.shape[1] - pad - self.template_tokens), 0) :
                    ],
                    keys[:, pad:],
                    self.layer,
                    self.num_layers,
                    self.template_tokens,
                    self.scaling,
                    self.softcap,
                )
                for queries, keys, pad in zip(window, self.keys, self.padding, strict=True)
            ]
        return self._observed[window_size]

    def compress(self, method: Method) -> Ragged:
        """The entries that `method` keeps of every sequence; padding is never kept."""
        with torch.no_grad():
            parts = []
            for row, observation in enumerate(self.observe(method.window_size)):
                kept = method.keep(observation)
                values = self.values[row, :, self.padding[row] :]
                parts.append(Ragged.gather(observation.keys, values, kept.counts, kept.positions))
            return Ragged.stack(parts)
