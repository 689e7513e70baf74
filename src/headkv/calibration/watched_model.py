"""A full cache that also shows the attention of the tokens after the prompt.

Only their rows are ever formed: `[query_head, new token, key]`, whatever the prompt's length.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import CompressedLayer, plan_layers
from headkv.cache.sliding_layer import SlidingLayer
from headkv.kernels import attend, causal_tail, join, soft_cap
from headkv.kernels.ragged import Ragged
from headkv.methods import build_method


class WatchLayer(CompressedLayer):
    """Keeps everything and remembers the latest attention rows.

    Attributes:
        rows: attention of the latest forward pass, float32 `[query_head, new token, key]`; keys
            are the prefilled tokens and all since, the new ones included.
    """

    rows: Tensor

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """Attends as the full cache does, for one sequence, and keeps the attention rows.

        Args:
            query: `[1, query_head, new token, head_dim]`.
            keys: those of the tokens since the prompt, `[1, kv_head, token, head_dim]`.
            values: likewise, `[1, kv_head, token, value_dim]`.
            scaling: factor of the logits.
            softcap: soft cap of the logits.

        Returns:
            `[1, query_head, new token, value_dim]`.
        """
        assert isinstance(self.prefix, Ragged)
        prefix = attend(query, self.prefix, scaling, softcap)
        tail = causal_tail(query, keys, values, scaling, softcap)
        total = torch.logaddexp(prefix[1], tail[1])[0]
        heads, new = keys.shape[1], query.shape[2]
        prompt = self.prefix.keys.view(heads, -1, query.shape[-1])
        grouped = query[0].reshape(heads, -1, query.shape[-1]).float() * scaling
        sides = [grouped @ side.float().transpose(1, 2) for side in (prompt, keys[0])]
        logits = torch.cat(sides, -1).view(-1, new, prompt.shape[1] + keys.shape[2])
        logits = soft_cap(logits, softcap)
        self.rows = torch.exp(logits - total[..., None])
        if new > 1:  # a token does not see those fed with it that come after it
            self.rows = self.rows.tril(self.rows.shape[2] - new)
        return join(prefix, tail)


class WatchedModel:
    """One prompt through a model, with the attention of its answer.

    Sliding-window layers among full ones are not watched, as no method compresses them: their rows
    are zero.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        prompt: token ids, two or more. The last one is fed with the answer.
    """

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        self.model = model
        self.next = list(prompt[-1:])
        full = build_method("fullkv")
        self.layers = [
            SlidingLayer(plan, 0) if plan.index is None else WatchLayer(plan, 0, full)
            for plan in plan_layers(model.config)
        ]
        self.cache = Cache(layers=list(self.layers))
        self._forward(list(prompt[:-1]))

    def _forward(self, tokens: list[int]) -> Tensor:
        """Feeds tokens and returns the logits of the next one, `[vocabulary]`."""
        with torch.no_grad():
            ids = torch.tensor([tokens], device=self.model.device)
            output = self.model(
                input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1
            )
        return output.logits[0, -1]

    def _rows(self) -> Tensor:
        """Attention of the latest tokens, `[layer, query_head, new token, key]`."""
        shown = [layer.rows if isinstance(layer, WatchLayer) else None for layer in self.layers]
        first = next(rows for rows in shown if rows is not None)
        return torch.stack(
            [torch.zeros_like(first) if r is None else r.to(first.device) for r in shown]
        )

    def force(self, answer: list[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Makes the model say a given answer; as `answer`, in a single portion.

        Args:
            answer: token ids.
        """
        self._forward([*self.next, *answer[:-1]])
        yield answer, self._rows()

    def answer(
        self, max_new_tokens: int, stops: Sequence[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Answers greedily, one pass a token, the stop token excluded.

        Args:
            max_new_tokens: longest answer in tokens.
            stops: ids of the tokens that end the answer.

        Yields:
            Tokens of a portion of the answer, and the attention of the queries that predicted
            them, `[layer, query_head, token, key]`. Keys are the prompt and what was fed since.
        """
        for _ in range(max_new_tokens):
            token = int(self._forward(self.next).argmax())
            if token in stops:
                break
            yield [token], self._rows()
            self.next = [token]
