"""A full cache that also shows the attention of the tokens after the prompt.

Only their rows are ever formed: `[query_head, new token, prompt token]`, whatever the prompt's
length.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from headkv.cache import CompressedLayer, plan_layers
from headkv.kernels import attend, causal_tail, join
from headkv.methods import build_method


class WatchLayer(CompressedLayer):
    """Keeps everything and remembers the latest attention rows over the prompt.

    Attributes:
        rows: float32 `[query_head, new token, prompt token]` of the latest forward pass.
    """

    rows: Tensor

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        """As the full cache does, for one sequence."""
        assert self.prefix is not None
        prefix = attend(query, self.prefix, scaling, softcap)
        tail = causal_tail(query, keys, values, scaling, softcap)
        total = torch.logaddexp(prefix[1], tail[1])[0]
        heads = self.prefix.counts.shape[1]
        prompt = self.prefix.keys.view(heads, -1, query.shape[-1]).float()
        grouped = query[0].reshape(heads, -1, query.shape[-1]).float() * scaling
        logits = (grouped @ prompt.transpose(1, 2)).view(*query.shape[1:3], -1)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        self.rows = torch.exp(logits - total[..., None])
        return join(prefix, tail)


class WatchedModel:
    """One prompt through a model, with the attention that its answer pays to it.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        prompt: token ids.
    """

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        self.model = model
        self.next = list(prompt[-1:])
        full = build_method("fullkv")
        self.layers = [WatchLayer(plan, 0, full) for plan in plan_layers(model.config)]
        self.cache = Cache(layers=list(self.layers))
        self._forward(list(prompt[:-1]))

    def _forward(self, tokens: list[int]) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor([tokens], device=self.model.device)
            output = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
        return output.logits[0, -1]

    def rows(self) -> Tensor:
        """Attention of the latest tokens, `[layer, query_head, new token, prompt token]`."""
        return torch.stack([layer.rows.to(self.layers[0].rows.device) for layer in self.layers])

    def force(self, answer: list[int]) -> Tensor:
        """Feeds a given answer in one pass; row i is the query that predicts its token i."""
        self._forward([*self.next, *answer[:-1]])
        return self.rows()

    def answer(self, max_new_tokens: int, stops: Sequence[int]) -> tuple[list[int], Tensor]:
        """Greedy answer, one pass a token, and the rows of its steps (stop token excluded)."""
        tokens: list[int] = []
        rows: list[Tensor] = []
        for _ in range(max_new_tokens):
            token = int(self._forward(self.next).argmax())
            if token in stops:
                break
            rows.append(self.rows())
            tokens.append(token)
            self.next = [token]
        return tokens, torch.cat(rows, dim=2) if rows else self.rows()[:, :, :0]
