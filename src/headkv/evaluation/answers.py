"""What an evaluator works on and gives: a prefilled batch, what a cell cost, an answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headkv.cache import CompressedCache
from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.fidelity import TOKENS, Fidelity, Measures
from headkv.generation.prefill import Prefilled


@dataclass
class PrefilledBatch:
    """A prefilled batch of examples.

    Attributes:
        examples: the examples, of one kind.
        prefilled: their prompts.
        seconds: duration of the prefill.
        full: what the caches of this batch are measured against, made when it is first needed.
    """

    examples: Sequence[EncodedExample]
    prefilled: Prefilled
    seconds: float
    full: Fidelity | None = None

    def decoding_bytes(self, cache: CompressedCache) -> float:
        """About how many bytes a cell takes while it is decoded and measured.

        Args:
            cache: the batch under that cell.
        """
        first, prefilled = self.examples[0], self.prefilled
        new = first.stopping.max_new_tokens + first.behind + TOKENS
        tail = new * prefilled.nbytes / sum(prefilled.lengths)
        # The prompt twice: answers that end leave the batch, and the others are copied.
        return 2 * cache.kept_bytes + len(prefilled.lengths) * tail + 3 * prefilled.logits.nbytes


@dataclass
class Beginning:
    """What several prompts begin with, prefilled once.

    Attributes:
        ids: its token ids.
        prefilled: the prefill, of one sequence.
        seconds: its duration, a prompt.
        whole: the same as a whole prompt, made when it is first needed.
    """

    ids: list[int]
    prefilled: Prefilled
    seconds: float
    whole: Prefilled | None = None


@dataclass(frozen=True)
class CellCost:
    """Cost of compressing a batch under one cell.

    Attributes:
        cell: index of the cell.
        seconds: duration of the compression, an example.
        kept: entries of each sequence, over all layers and stored heads.
        held: bytes that these entries occupy, by sequence.
        stored_heads: (layer, stored head) pairs of one sequence, sliding layers excluded.
        token: entries and bytes that a generated token adds to a sequence.
    """

    cell: int
    seconds: float
    kept: list[int]
    held: list[int]
    stored_heads: int
    token: tuple[int, int]

    @classmethod
    def of(cls, cell: int, seconds: float, cache: CompressedCache) -> "CellCost":
        """Reads off a cache what it holds.

        Args:
            cell: index of the cell that made it.
            seconds: duration of the compression, an example.
            cache: right after the compression.
        """
        kept = cache.kept_tokens.sum((1, 2)).tolist()
        held = [0] * len(kept)
        for layer in cache.layers:
            for sequence, size in enumerate(layer.row_bytes):
                held[sequence] += size
        stored_heads = sum(prefix.counts.shape[1] for prefix in cache.prefixes)
        costs = [layer.token_cost for layer in cache.layers]
        token = sum(entries for entries, _ in costs), sum(size for _, size in costs)
        return cls(cell, seconds, kept, held, stored_heads, token)


@dataclass(frozen=True)
class Answer:
    """An example's answer under one cell.

    Attributes:
        cell: index of the cell.
        encoded: the example.
        tokens: ids of the answer's tokens, end tokens cut off.
        kept_tokens: entries that the cell kept of the prompt.
        cache_bytes: bytes that they occupy.
        full_cache_bytes: bytes of the uncompressed cache of this prompt.
        stored_heads: (layer, stored head) pairs, sliding layers excluded.
        seconds: this answer's share of what its batch took, by step.
        fidelity: what compression did to the predictions; None where it was not measured.
        decoding: entries and bytes held over the answer, peak and mean.
    """

    cell: int
    encoded: EncodedExample
    tokens: list[int]
    kept_tokens: int
    cache_bytes: int
    full_cache_bytes: int
    stored_heads: int
    seconds: dict[str, float]
    fidelity: Measures | None
    decoding: dict[str, int | float]


class Clock:
    """Adds up what the steps of a batch take.

    Args:
        device: the device that does the work.

    Attributes:
        laps: seconds of each step.
    """

    def __init__(self, device: torch.device) -> None:
        self.laps = {"decode": 0.0, "fidelity": 0.0}
        self._device, self._last = device, now(device)

    def lap(self, step: str) -> None:
        """What has passed since the last lap belongs to this step."""
        last, self._last = self._last, now(self._device)
        self.laps[step] += self._last - last


def now(device: torch.device) -> float:
    """Seconds on a clock, once the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
