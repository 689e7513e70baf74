"""Every decision about batches and memory: what is answered together, and what if it does not fit.

Examples of a batch share a prefill, and those about one document the prefill of the document; cells
of a batch are decoded together, as many as the free memory allows. A batch that runs out of GPU
memory is halved and tried again: first its examples, then the cells that are decoded together. What
is left in the end is one cell of one example, which fails alone.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice

import torch

from headkv.cache import CompressedCache
from headkv.evaluation.answers import Answer, Beginning, CellCost, PrefilledBatch
from headkv.evaluation.documents import by_document, common_tokens
from headkv.evaluation.encoding import EncodedExample, Encoder
from headkv.evaluation.evaluator import Evaluator
from headkv.evaluation.memory import free_bytes, release
from headkv.evaluation.plan import Missing
from headkv.records import Example

_MOST_CELLS = 64  # decoded together; more are hardly faster
_SHARE = 0.5  # of the free memory that a batch may fill
_MOST_ROWS = 64  # questions of a document that are answered at once
_AHEAD = 16  # batches that are looked at together, to put examples of one length together
_log = logging.getLogger(__name__)

Write = Callable[[list[Answer]], None]
Fail = Callable[[int, Example, str], None]


class NotFinite(Exception):
    """A prefill with a NaN or an infinity in it, so that any answer to it means nothing.

    Args:
        rows: indices of these examples in their batch.
    """

    reason = "the model's logits, keys or values of the prompt are NaN or infinite"

    def __init__(self, rows: list[int]) -> None:
        super().__init__(self.reason)
        self.rows = rows


class Scheduler:
    """Answers examples under cells, in batches that fit.

    Args:
        encoder: encodes the examples.
        evaluator: runs the model.
        together: number of examples that share a prefill at most; halved for the rest of the run
            when memory runs out.
        most_cells: number of cells decoded together at most; None leaves it to the free memory.
    """

    def __init__(
        self, encoder: Encoder, evaluator: Evaluator, together: int, most_cells: int | None
    ) -> None:
        self.encoder, self.evaluator = encoder, evaluator
        self._together, self._most_cells = together, most_cells
        self._at_work: list[int] = []  # cells compressed or decoded now; none during a prefill

    def compress_on(self, cell: int) -> str:
        """What a cell compresses, `prompt` or `context`."""
        return self.evaluator.cells[cell].compress_on

    def run(
        self, work: Iterable[Missing], write: Write, fail: Fail, done: Callable[[int], None]
    ) -> None:
        """Answers everything that is missing.

        Args:
            work: examples, one after another, and the cells that they miss.
            write: takes the answers of a batch of cells as soon as it is done.
            fail: takes the cell, the example and the reason of an answer that does not fit.
            done: is told how many examples are finished.
        """
        alone: list[Missing] = []
        for group in by_document(work):
            # Two ways to compress one example are a document and its questions, too.
            if len(group) > 1 or len({self.compress_on(cell) for cell in group[0][1]}) > 1:
                self._document(group, write, fail)
                done(len(group))
                continue
            alone += group
            if len(alone) >= (self._together if self._together == 1 else _AHEAD * self._together):
                self._batches(alone, write, fail, done)
                alone = []
        self._batches(alone, write, fail, done)

    def _document(self, group: Sequence[Missing], write: Write, fail: Fail) -> None:
        """Answers examples that begin alike; what they have in common is prefilled once."""
        encoded = [each for missing in group for each in self._encoded(*missing)]
        shared = common_tokens([each.context for each, _ in encoded])
        beginning = None
        first = encoded[0][0]
        whole = first if all(len(each.context) == shared for each, _ in encoded) else None
        if any(each.probe for each, _ in encoded):  # its tokens are behind the context
            shared = 0
        if shared and (whole is not None or not self.evaluator.needs_whole):
            self._at_work = []
            try:
                beginning = self.evaluator.begin(first.context[:shared], len(encoded), whole)
            except torch.OutOfMemoryError:
                release()
                _log.warning("out of GPU memory: a document is prefilled for each of its questions")
        kinds: dict[tuple[bool, tuple[int, ...], object], list[EncodedExample]] = {}
        for each, cells in encoded:
            # Those that are read no further than the common beginning share all of a prefill.
            ends = beginning is not None and len(each.context) == shared
            kind = each.kind_but_lead if ends and self.evaluator.branches else each.kind
            kinds.setdefault((ends, cells, kind), []).append(each)
        for (ends, cells, _), same in kinds.items():
            rows = self._rows(beginning, cells) if beginning is not None and ends else 1
            for begin in range(0, len(same), rows):
                self._answer(same[begin : begin + rows], cells, write, fail, beginning)

    def _rows(self, beginning: Beginning, cells: Sequence[int]) -> int:
        """How many questions of one document are answered at once: so many as memory allows."""
        sizes = [self.evaluator.cells[cell].method.kv_size for cell in cells]
        tokens = len(beginning.ids)
        # The full cache of every question, where it is a cell or what others are measured against.
        kept = max(tokens if self.evaluator.fidelity else 0, *(size or tokens for size in sizes))
        each = 3 * beginning.prefilled.nbytes * min(kept / tokens, 1)
        return max(1, min(_MOST_ROWS, int(_SHARE * free_bytes(self.evaluator.loaded.model) / each)))

    def _encoded(
        self, example: Example, cells: tuple[int, ...]
    ) -> Iterator[tuple[EncodedExample, tuple[int, ...]]]:
        """An example as it is read by the cells that compress the same part of it."""
        modes = dict.fromkeys(self.compress_on(cell) for cell in cells)
        for mode in modes:
            same = tuple(cell for cell in cells if self.compress_on(cell) == mode)
            yield self.encoder.encode(example, mode), same

    def answers(
        self,
        examples: Sequence[EncodedExample],
        cells: Sequence[int],
        beginning: Beginning | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers examples of one kind, which share a prefill.

        Args:
            examples: the examples.
            cells: indices of the cells.
            beginning: what all contexts begin with, prefilled; several have to end there.

        Yields:
            The answers of a batch of cells, as soon as it is done.

        Raises:
            torch.OutOfMemoryError: something did not fit.
            NotFinite: the model's logits, keys or values of some examples are no numbers.
        """
        self._at_work = []
        batch = self.evaluator.prefill(examples, beginning)
        finite = batch.prefilled.finite
        if not all(finite):
            raise NotFinite([row for row, sound in enumerate(finite) if not sound])
        for costs, caches in self._packed(batch, cells):
            yield self.evaluator.decode(batch, costs, caches)

    def _packed(
        self, batch: PrefilledBatch, cells: Sequence[int]
    ) -> Iterator[tuple[list[CellCost], list[CompressedCache]]]:
        """Compresses cell after cell; a pack is full if one more like its last may not fit.

        Cells of a pack have one granularity. The full cache comes first of its own, for its answer
        is what the others are measured along.
        """
        methods = [cell.method for cell in self.evaluator.cells]

        def order(cell: int) -> tuple[str, bool]:
            return str(methods[cell].granularity), not methods[cell].keeps_all

        costs: list[CellCost] = []
        caches: list[CompressedCache] = []
        room, needed = 0.0, 0.0
        for cell in sorted(cells, key=order):
            full = len(costs) == (self._most_cells or _MOST_CELLS) or needed > room
            if costs and (full or order(cell)[0] != order(costs[-1].cell)[0]):
                yield costs, caches
                costs, caches = [], []
            if not costs:
                free = free_bytes(self.evaluator.loaded.model)
                room = _SHARE * free if self._most_cells is None else float("inf")
            self._at_work = [*(cost.cell for cost in costs), cell]
            cost, cache = self.evaluator.compress(batch, cell)
            costs.append(cost)
            caches.append(cache)
            needed = batch.decoding_bytes(cache)
            room -= needed
            del cache  # only the list holds it, and gives it up
        if costs:
            yield costs, caches

    def _batches(
        self, work: Sequence[Missing], write: Write, fail: Fail, done: Callable[[int], None]
    ) -> None:
        """Answers examples that share nothing, those of one task, kind and cells together.

        Where several make a batch they have about the same length: padding is work too.
        """

        def group(missing: Missing) -> tuple[str, tuple[int, ...]]:
            return missing[0].task, missing[1]

        if self._together > 1:
            work = sorted(work, key=lambda missing: (*group(missing), len(missing[0].prompt)))
        for (_, cells), same in groupby(work, group):
            while batch := list(islice(same, self._together)):
                kinds: dict[object, list[EncodedExample]] = {}
                for example, _ in batch:
                    ((encoded, _),) = self._encoded(example, cells)
                    kinds.setdefault(encoded.kind, []).append(encoded)
                for examples in kinds.values():
                    self._answer(examples, cells, write, fail)
                done(len(batch))

    def _answer(
        self,
        examples: list[EncodedExample],
        cells: Sequence[int],
        write: Write,
        fail: Fail,
        beginning: Beginning | None = None,
    ) -> None:
        """Answers a batch, or its halves."""
        most_cells = self._most_cells
        todo = [(examples, list(cells))]
        while todo:
            examples, left = todo.pop(0)
            try:
                reason = self._try(examples, left, write, beginning) if left else ""
            except NotFinite as problem:
                for row in problem.rows:
                    for cell in left:
                        fail(cell, examples[row].example, problem.reason)
                sound = [each for row, each in enumerate(examples) if row not in problem.rows]
                todo[:0] = [(sound, left)] if sound else []
                continue
            if not left:
                continue
            release()
            if len(examples) > 1:
                self._together = half = len(examples) // 2
                todo[:0] = [(examples[:half], list(left)), (examples[half:], left)]
                _log.warning("out of GPU memory: now %d examples at a time", half)
            elif len(self._at_work) > 1:
                self._most_cells = half = len(self._at_work) // 2
                todo.insert(0, (examples, left))
                _log.warning("out of GPU memory: now %d cells at a time", half)
            else:
                failed = self._at_work or left  # without cells at work it was the prefill
                for cell in failed:
                    fail(cell, examples[0].example, reason)
                self._most_cells = most_cells  # too many cells were not the reason
                todo.insert(0, (examples, [cell for cell in left if cell not in failed]))

    def _try(
        self,
        examples: list[EncodedExample],
        left: list[int],
        write: Write,
        beginning: Beginning | None,
    ) -> str:
        """Answers a batch as far as memory suffices.

        Args:
            examples: examples of one kind.
            left: indices of cells; those that have answered are taken out.
            write: takes the answers.
            beginning: what they begin with, if that is prefilled.

        Returns:
            Why there are any cells left.
        """
        try:
            for answers in self.answers(examples, tuple(left), beginning):
                write(answers)
                for cell in {answer.cell for answer in answers}:
                    left.remove(cell)
        except torch.OutOfMemoryError as problem:
            return str(problem).partition(". ")[0]
        return ""
