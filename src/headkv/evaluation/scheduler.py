"""Which examples are answered together, and what happens when memory does not suffice.

A batch that runs out of GPU memory is halved and tried again: first its examples, which share a
prefill, then the cells that are decoded together. What is left in the end is one cell of one
example; it gets a row that says why it has no answer.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice

import torch

from headkv.evaluation.encoding import Ask, Asker
from headkv.evaluation.evaluator import Answering
from headkv.evaluation.memory import release
from headkv.evaluation.progress import Progress
from headkv.records import Example, Failure, Result

Missing = tuple[Example, tuple[int, ...]]
"""An example, and the cells that have not answered it."""
Write = Callable[[int, Example, Result | Failure], None]


class Batching:
    """Answers examples in batches.

    Args:
        asker: encodes them.
        answering: runs the model.
        together: examples of a batch at most.
        write: takes the rows, by cell and example.
        progress: is kept up to date.
    """

    def __init__(
        self,
        asker: Asker,
        answering: Answering,
        together: int,
        write: Write,
        progress: Progress,
    ) -> None:
        self.asker, self.answering, self.together = asker, answering, together
        self.write, self.progress = write, progress

    def run(self, work: Sequence[Missing], tasks: Sequence[str]) -> None:
        """Answers all of it.

        Args:
            work: one example after another.
            tasks: in the order in which they are to be answered.
        """
        for asks, cells in self._batches(work, tasks):
            self._answer(asks, cells)

    def _batches(
        self, work: Sequence[Missing], tasks: Sequence[str]
    ) -> Iterator[tuple[list[Ask], tuple[int, ...]]]:
        """Examples of one kind, and the cells that they all miss.

        Where several examples make a batch they have about the same length: padding is work too.
        """

        def group(missing: Missing) -> tuple[int, tuple[int, ...]]:
            return tasks.index(missing[0].task), missing[1]

        if self.together > 1:
            work = sorted(work, key=lambda missing: (*group(missing), len(missing[0].prompt)))
        for (_, cells), same in groupby(work, group):
            while batch := list(islice(same, self.together)):
                kinds: dict[object, list[Ask]] = {}
                for example, _ in batch:
                    ask = self.asker.ask(example)
                    kinds.setdefault(ask.kind, []).append(ask)
                for asks in kinds.values():
                    yield asks, cells

    def _answer(self, asks: list[Ask], cells: Sequence[int]) -> None:
        """Answers a batch, or its halves."""
        most_cells = self.answering.most_cells
        todo = [(asks, list(cells))]
        while todo:
            asks, left = todo.pop(0)
            reason = self._try(asks, left) if left else ""
            if not left:
                self.progress.add(examples=len(asks))
                continue
            release()
            at_work = self.answering.at_work
            if len(asks) > 1:
                self.together = half = len(asks) // 2
                todo[:0] = [(asks[:half], list(left)), (asks[half:], left)]
                self.progress.note(f"out of GPU memory: now {half} examples at a time")
            elif len(at_work) > 1:
                self.answering.most_cells = half = len(at_work) // 2
                todo.insert(0, (asks, left))
                self.progress.note(f"out of GPU memory: now {half} cells at a time")
            else:
                failed = at_work or left  # without cells at work it was the prefill
                for cell in failed:
                    key = self.answering.run_key(cell, asks[0].example)
                    failure = Failure(asks[0].example.id, reason, key)
                    self.write(cell, asks[0].example, failure)
                self.answering.most_cells = most_cells  # too many cells were not the reason
                todo.insert(0, (asks, [cell for cell in left if cell not in failed]))

    def _try(self, asks: list[Ask], left: list[int]) -> str:
        """Answers a batch as far as memory suffices.

        Args:
            asks: examples of one kind.
            left: cells; those that have answered are taken out.

        Returns:
            Why there are any left.
        """
        try:
            for answered in self.answering.answers(asks, tuple(left)):
                for cell, example, row in answered:
                    self.write(cell, example, row)
                for cell in {cell for cell, _, _ in answered}:
                    left.remove(cell)
                self.progress.add(tokens=sum(row.new_tokens for _, _, row in answered))
        except torch.OutOfMemoryError as problem:
            return str(problem).partition(". ")[0]
        return ""
