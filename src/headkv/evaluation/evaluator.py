"""Runs the model: a prefill, a compression, an answer, and what compression did to it.

Nothing here decides what goes together or remembers anything: see `headkv.evaluation.scheduler`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from headkv.cache import CompressedCache
from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.fidelity import TOKENS, Fidelity, Measures, answer_ids
from headkv.evaluation.grid import Cell
from headkv.generation.decoding import answer, start
from headkv.generation.occupancy import Occupancy
from headkv.generation.prefill import Prefilled, prefill
from headkv.models.loaded import Loaded


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


@dataclass(frozen=True)
class CellCost:
    """Cost of compressing a batch under one cell.

    Attributes:
        cell: index of the cell.
        seconds: duration of the compression, an example.
        kept: entries of each sequence, over all layers and stored heads.
        held: bytes that these entries occupy, by sequence.
        stored_heads: (layer, stored head) pairs of one sequence, sliding layers excluded.
    """

    cell: int
    seconds: float
    kept: list[int]
    held: list[int]
    stored_heads: int

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
        return cls(cell, seconds, kept, held, stored_heads)


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


class Evaluator:
    """Prefills, compresses, decodes and measures; it keeps nothing between two calls.

    Args:
        loaded: the model.
        cells: the cells of the run.
        fidelity: whether answers are measured, see `headkv.evaluation.fidelity`.
        fidelity_tokens: tokens of an answer that it looks at.
    """

    def __init__(
        self, loaded: Loaded, cells: Sequence[Cell], fidelity: bool, fidelity_tokens: int = TOKENS
    ) -> None:
        self.loaded, self.cells, self.fidelity = loaded, cells, fidelity
        self.fidelity_tokens = fidelity_tokens

    def prefill(self, examples: Sequence[EncodedExample]) -> PrefilledBatch:
        """Runs prompts through the model, the shorter ones padded on the left.

        Args:
            examples: examples of one kind.

        Raises:
            torch.OutOfMemoryError: they do not fit together.
        """
        began = self._now()
        contexts = [each.context for each in examples]
        width = max(map(len, contexts))
        ids = [[0] * (width - len(context)) + context for context in contexts]
        mask = [[0] * (width - len(context)) + [1] * len(context) for context in contexts]
        device = self.loaded.model.device
        inputs = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        methods = [cell.method for cell in self.cells]
        prefilled = prefill(self.loaded.model, inputs, examples[0].template_tokens, methods)
        return PrefilledBatch(examples, prefilled, self._now() - began)

    def compress(self, batch: PrefilledBatch, cell: int) -> tuple[CellCost, CompressedCache]:
        """Compresses a batch under one cell.

        Args:
            batch: from `prefill`; unchanged.
            cell: index of the cell.
        """
        began = self._now()
        cache = batch.prefilled.compress(self.cells[cell].method)
        seconds = (self._now() - began) / len(batch.examples)
        return CellCost.of(cell, seconds, cache), cache

    def decode(
        self, batch: PrefilledBatch, costs: Sequence[CellCost], caches: list[CompressedCache]
    ) -> list[Answer]:
        """Answers, and measures if that is asked for.

        Args:
            batch: from `prefill`.
            costs: from `compress`, one a cell.
            caches: likewise; the list is emptied, for they can be large.

        Returns:
            The answers of every example under every one of these cells.

        Raises:
            torch.OutOfMemoryError: so many cells do not fit together.
        """
        examples, model = batch.examples, self.loaded.model
        began = self._now()
        decoding = start(model, batch.prefilled, caches, [each.lead for each in examples])
        caches.clear()
        fork = decoding.fork() if self.fidelity else None
        occupancy = Occupancy(len(decoding.logits))
        tokens = answer(model, decoding, examples[0].stopping, occupancy)
        decoded = self._now()
        seconds = {
            "prefill": batch.seconds / len(examples),
            "compress": 0.0,
            "decode": (decoded - began) / len(tokens),
        }
        measures: list[Measures] | list[None] = [None] * len(tokens)
        if fork is not None:
            measures = self._against_full(batch, costs, tokens).of(fork)
            seconds["fidelity"] = (self._now() - decoded) / len(tokens)
        return [
            Answer(
                cell=cost.cell,
                encoded=encoded,
                tokens=ids,
                kept_tokens=cost.kept[place],
                cache_bytes=cost.held[place],
                full_cache_bytes=batch.prefilled.row_bytes[place],
                stored_heads=cost.stored_heads,
                seconds=seconds | {"compress": cost.seconds},
                fidelity=measured,
                decoding=held.as_row(),
            )
            for (cost, (place, encoded)), ids, measured, held in zip(
                product(costs, enumerate(examples)), tokens, measures, occupancy.held, strict=True
            )
        ]

    def _against_full(
        self, batch: PrefilledBatch, costs: Sequence[CellCost], tokens: Sequence[list[int]]
    ) -> Fidelity:
        """What caches are measured against; its answer is the full cache's, if that is a cell."""
        if batch.full is None:
            examples = batch.examples
            own = [
                tokens[place * len(examples) : (place + 1) * len(examples)]
                for place, cost in enumerate(costs)
                if self.cells[cost.cell].method.keeps_all
            ]
            batch.full = Fidelity(
                self.loaded.model,
                batch.prefilled,
                [each.lead for each in examples],
                [self._reference(each) for each in examples],
                examples[0].stopping,
                own[0] if own else None,
                self.fidelity_tokens,
            )
        return batch.full

    def _reference(self, encoded: EncodedExample) -> list[int]:
        """The token ids of the first of the right answers."""
        text = encoded.example.answers[0] if encoded.example.answers else ""
        return answer_ids(self.loaded.tokenizer, encoded.prompt.input_ids, text)

    def _now(self) -> float:
        """Seconds on a clock, once the GPU has done what it was given."""
        if self.loaded.model.device.type == "cuda":
            torch.cuda.synchronize(self.loaded.model.device)
        return time.perf_counter()
