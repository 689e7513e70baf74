"""StreamingLLM (arXiv 2309.17453): the first tokens and the latest ones, whatever they say."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.methods.evidence import Observation
from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class StreamingLLM(Method):
    """Keeps `sinks` first tokens and the most recent `kv_size - sinks`.

    Attributes:
        sinks: attention sinks at the start of the prompt (4 in the paper).
    """

    sinks: int = 4

    def scores(self, observation: Observation) -> Tensor:
        """Later is better, and the sinks are best."""
        heads, kv_heads = observation.queries.shape[0], observation.keys.shape[0]
        rank = torch.arange(
            observation.candidates, dtype=torch.float32, device=observation.keys.device
        )
        rank[: self.sinks] = float("inf")
        return rank.repeat(self.stored_heads(heads, kv_heads), 1)
