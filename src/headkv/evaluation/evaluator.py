"""Encoded examples in, rows out: one prefill, then batches of cells that are decoded together."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from headkv.benchmarks.base import Benchmark
from headkv.cache import CompressedCache
from headkv.evaluation.encoding import Ask
from headkv.evaluation.fidelity import TOKENS, Fidelity, Measures, answer_ids
from headkv.evaluation.grid import Cell
from headkv.evaluation.memory import free_bytes
from headkv.evaluation.settings import Settings
from headkv.generation.decoding import answer, start
from headkv.generation.prefill import Prefilled, prefill
from headkv.models.loaded import Loaded
from headkv.records import Example, Result

_MOST_CELLS = 64  # decoded together; more are hardly faster
_SHARE = 0.5  # of the free memory that a batch may fill

Answered = tuple[int, Example, Result]


@dataclass
class Prompts:
    """A prefilled batch of examples.

    Attributes:
        asks: the examples, of one kind.
        prefilled: their prompts.
        seconds: that the prefill took.
        full: what caches are measured against, once it is needed.
    """

    asks: Sequence[Ask]
    prefilled: Prefilled
    seconds: float
    full: Fidelity | None = None


@dataclass(frozen=True)
class Compressed:
    """What a cell did to a prefilled batch.

    Attributes:
        cell: its index.
        seconds: that the compression took.
        kept: entries of each sequence.
        held: their bytes.
        lists: that the entries of a sequence are in; sliding windows, kept whole, not counted.
    """

    cell: int
    seconds: float
    kept: list[int]
    held: list[int]
    lists: int


class Answering:
    """Answers examples under the cells of a run.

    Args:
        settings: of the run.
        benchmark: scores answers.
        loaded: the model.
        cells: methods and sizes.
        run_key: of the row of a cell, by its index, and an example.

    Attributes:
        most_cells: decoded together; None: as many as memory allows.
        at_work: cells being compressed and decoded now; none during a prefill.
    """

    def __init__(
        self,
        settings: Settings,
        benchmark: Benchmark,
        loaded: Loaded,
        cells: Sequence[Cell],
        run_key: Callable[[int, Example], str],
    ) -> None:
        self.settings, self.benchmark, self.loaded, self.cells = settings, benchmark, loaded, cells
        self.run_key = run_key
        self.most_cells = settings.cells_per_batch
        self.at_work: list[int] = []

    def answers(self, asks: Sequence[Ask], cells: Sequence[int]) -> Iterator[list[Answered]]:
        """Answers examples of one kind under the given cells.

        Yields:
            The rows of a batch of cells, as soon as it is done.

        Raises:
            torch.OutOfMemoryError: `at_work` says what did not fit.
        """
        self.at_work = []
        began = self._now()
        prefilled = self.prefill(asks)
        prompts = Prompts(asks, prefilled, self._now() - began)
        for batch, caches in self._batches(prompts, cells):
            yield self._decode(prompts, batch, caches)

    def prefill(self, asks: Sequence[Ask]) -> Prefilled:
        """Runs prompts of one kind through the model, the shorter ones padded on the left."""
        contexts = [ask.context for ask in asks]
        width = max(map(len, contexts))
        ids = [[0] * (width - len(context)) + context for context in contexts]
        mask = [[0] * (width - len(context)) + [1] * len(context) for context in contexts]
        device = self.loaded.model.device
        inputs = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        return prefill(self.loaded.model, inputs, asks[0].template_tokens)

    def _batches(
        self, prompts: Prompts, cells: Sequence[int]
    ) -> Iterator[tuple[list[Compressed], list[CompressedCache]]]:
        """Compresses cell after cell; a batch is full if one more like its last may not fit.

        Cells of a batch have one granularity. The full cache comes first of its own, for its
        answer is what the others are measured along.
        """

        def granularity(cell: int) -> str:
            return str(self.cells[cell].method.granularity)

        batch: list[Compressed] = []
        caches: list[CompressedCache] = []
        room, needed = 0.0, 0.0
        for cell in sorted(
            cells, key=lambda i: (granularity(i), self.cells[i].method.kv_size is not None)
        ):
            full = len(batch) == (self.most_cells or _MOST_CELLS) or needed > room
            if batch and (full or granularity(cell) != granularity(batch[-1].cell)):
                yield batch, caches
                batch, caches = [], []
            if not batch:
                free = free_bytes(self.loaded.model)
                room = _SHARE * free if self.most_cells is None else float("inf")
            self.at_work = [*(each.cell for each in batch), cell]
            began = self._now()
            cache = prompts.prefilled.compress(self.cells[cell].method)
            seconds = (self._now() - began) / len(prompts.asks)
            lists = sum(prefix.counts.shape[1] for prefix in cache.prefixes)
            batch.append(Compressed(cell, seconds, *_held(cache), lists))
            caches.append(cache)
            needed = self._bytes(prompts, cache)
            room -= needed
            del cache  # only the list holds it, and gives it up
        if batch:
            yield batch, caches

    def _bytes(self, prompts: Prompts, cache: CompressedCache) -> float:
        """About what a cell takes while it is decoded and measured."""
        prefilled = prompts.prefilled
        new = prompts.asks[0].stopping.max_new_tokens + prompts.asks[0].behind + TOKENS
        tail = new * prefilled.nbytes / sum(prefilled.lengths)
        # The prompt twice: rows that end leave the batch, and the others are copied.
        return 2 * cache.kept_bytes + len(prefilled.lengths) * tail + 3 * prefilled.logits.nbytes

    def _decode(
        self, prompts: Prompts, batch: Sequence[Compressed], caches: list[CompressedCache]
    ) -> list[Answered]:
        """Answers, and measures if that is asked for. Takes the caches, which can be large."""
        asks, model = prompts.asks, self.loaded.model
        began = self._now()
        rows = start(model, prompts.prefilled, caches, [ask.lead for ask in asks])
        caches.clear()
        fork = rows.fork() if self.settings.fidelity else None
        tokens = answer(model, rows, asks[0].stopping)
        decoded = self._now()
        seconds = {
            "prefill": prompts.seconds / len(asks),
            "compress": 0.0,
            "decode": (decoded - began) / len(tokens),
        }
        measures: list[Measures] | list[None] = [None] * len(tokens)
        if fork is not None:
            measures = self._against_full(prompts, batch, tokens).of(fork)
            seconds["fidelity"] = (self._now() - decoded) / len(tokens)
        return [
            (each.cell, ask.example, self._result(prompts, row, each, ids, measured, seconds))
            for (each, (row, ask)), ids, measured in zip(
                product(batch, enumerate(asks)), tokens, measures, strict=True
            )
        ]

    def _against_full(
        self, prompts: Prompts, batch: Sequence[Compressed], tokens: Sequence[list[int]]
    ) -> Fidelity:
        """What caches are measured against; its answer is the full cache's, if that is a cell."""
        if prompts.full is None:
            asks = prompts.asks
            own = [
                tokens[place * len(asks) : (place + 1) * len(asks)]
                for place, each in enumerate(batch)
                if self.cells[each.cell].method.kv_size is None
            ]
            prompts.full = Fidelity(
                self.loaded.model,
                prompts.prefilled,
                [ask.lead for ask in asks],
                [self._reference(ask) for ask in asks],
                asks[0].stopping,
                own[0] if own else None,
            )
        return prompts.full

    def _reference(self, ask: Ask) -> list[int]:
        """The first of the right answers."""
        text = ask.example.answers[0] if ask.example.answers else ""
        return answer_ids(self.loaded.tokenizer, ask.prompt.input_ids, text)

    def _result(
        self,
        prompts: Prompts,
        row: int,
        compressed: Compressed,
        ids: list[int],
        measured: Measures | None,
        seconds: dict[str, float],
    ) -> Result:
        ask, method = prompts.asks[row], self.cells[compressed.cell].method
        example = ask.example
        text = self.loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
        scores = self.benchmark.score(example, text)
        times = seconds | {"compress": compressed.seconds}
        return Result(
            id=example.id,
            prediction=text,
            answers=example.answers,
            score=scores[self.benchmark.main_metric(example.task)],
            scores=scores,
            prompt_tokens=len(ask.prompt.input_ids),
            new_tokens=len(ids),
            kv_size=method.kv_size,
            kept_tokens=compressed.kept[row],
            cache_bytes=compressed.held[row],
            full_cache_bytes=prompts.prefilled.row_bytes[row],
            protocol=method.protocol,
            granularity=str(method.granularity),
            compress_on=self.settings.compress_on,
            context_tokens=len(ask.context),
            stored_heads=compressed.lists,
            chat_template=ask.chat_template,
            end_tokens=ask.stopping.end_tokens,
            seconds={name: round(value, 4) for name, value in times.items()},
            run_key=self.run_key(compressed.cell, example),
            fidelity=measured,
            meta={**example.meta, "truncated": ask.prompt.truncated},
        )

    def _now(self) -> float:
        """Seconds on a clock, once the GPU has done what it was given."""
        if self.loaded.model.device.type == "cuda":
            torch.cuda.synchronize(self.loaded.model.device)
        return time.perf_counter()


def _held(cache: CompressedCache) -> tuple[list[int], list[int]]:
    """Entries of each sequence, and the bytes that they occupy."""
    kept = cache.kept_tokens.sum((1, 2)).tolist()
    held = [0] * len(kept)
    for layer in cache.layers:
        counts = layer.counts.sum(1).tolist()
        for row, count in enumerate(counts):  # the entries of a layer are of one size
            held[row] += layer.prompt_bytes * count // sum(counts)
    return kept, held
