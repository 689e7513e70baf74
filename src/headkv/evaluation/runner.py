"""Runs a benchmark: knows which examples and cells are asked for and which are missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from headkv.benchmarks.base import Benchmark, check_scale
from headkv.benchmarks.validation import in_validation
from headkv.evaluation.cell_files import CellFiles
from headkv.evaluation.encoding import Encoder
from headkv.evaluation.evaluator import Answer, Evaluator
from headkv.evaluation.grid import Cell
from headkv.evaluation.memory import used_bytes
from headkv.evaluation.progress import Progress
from headkv.evaluation.rows import RowMaker
from headkv.evaluation.scheduler import Missing, Scheduler
from headkv.evaluation.settings import Settings
from headkv.evaluation.signals import orderly_end
from headkv.models.loaded import Loaded
from headkv.records import Example, Failure
from headkv.storage.result_file import PromptFile


@dataclass
class Outcome:
    """What a run did so far.

    Attributes:
        asked: number of answers that were asked for.
        present: number of these whose rows were there already.
        answered: number of rows written by this run.
        failed: number of answers that memory did not suffice for; the next run tries them again.
        files: every result file it was asked for.
        foreign: number of rows of other settings in the same files, neither counted nor touched.
    """

    asked: int
    present: int
    answered: int = 0
    failed: int = 0
    files: list[Path] = field(default_factory=list)
    foreign: int = 0

    @property
    def left(self) -> str:
        """What is left to do, as a clause."""
        left = self.asked - self.present - self.answered
        return (
            f"{self.answered} rows written, {left} of {self.asked} answers left; "
            "run the same command to go on"
        )


class Runner:
    """One benchmark on one model.

    Args:
        settings: the settings of the run.
        benchmark: the benchmark.
        loaded: the model.
        cells: the cells of the run.
        validation: True asks only the validation part of the examples (see
            `headkv.benchmarks.validation`), False all but it, None everything.
    """

    def __init__(
        self,
        settings: Settings,
        benchmark: Benchmark,
        loaded: Loaded,
        cells: Sequence[Cell],
        validation: bool | None = None,
    ) -> None:
        self.settings, self.benchmark, self.loaded, self.cells = settings, benchmark, loaded, cells
        self.validation = validation
        self.encoder = Encoder(settings, benchmark, loaded)
        self.files = CellFiles(settings, benchmark, loaded, cells, self.encoder, validation)
        self.evaluator = Evaluator(loaded, cells, settings.fidelity)
        tokenizer, seed = loaded.tokenizer, settings.seed
        self._rows = RowMaker(benchmark, tokenizer, cells, settings.compress_on, loaded.name, seed)
        self._prompts = PromptFile(self.folder / "prompts.ndjson")

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self.files.folder

    def scheduler(self) -> Scheduler:
        """A new scheduler, which knows nothing yet of what fits into memory."""
        together, most = self.settings.batch_size or 1, self.settings.cells_per_batch
        return Scheduler(self.encoder, self.evaluator, together, most)

    def run(self, tasks: Sequence[str], work: Sequence[Missing] | None = None) -> Outcome:
        """Answers what is missing; SIGTERM and Ctrl-C leave a state to go on from.

        Args:
            tasks: tasks of the benchmark.
            work: what `work` returned for them; None works it out.

        Raises:
            UserError: results cannot be written, or a cell's KV size leaves no room.
            Stopped: it was told to stop.
        """
        work = self.work(tasks) if work is None else work
        with self.files.locked({(i, example.task) for example, cells in work for i in cells}):
            # Another process may have answered some of it before the files were locked.
            there = [(example, self.files.missing(example)) for example, _ in work]
            return self._run(tasks, [(example, cells) for example, cells in there if cells])

    def _run(self, tasks: Sequence[str], work: Sequence[Missing]) -> Outcome:
        examples = self.examples(tasks)
        asked = len(examples) * len(self.cells)
        outcome = Outcome(asked, asked - sum(len(missing) for _, missing in work))
        name = f"{self.benchmark.name} {self.loaded.name}"
        memory = partial(used_bytes, self.loaded.model)
        with (
            orderly_end(lambda: outcome.left),
            Progress(name, len(work), memory) as progress,
        ):
            self.scheduler().run(
                work,
                tasks,
                write=partial(self._write, outcome, progress),
                fail=partial(self._fail, outcome),
                done=progress.add,
            )
        outcome.files, outcome.foreign = self.files.paths, self.files.foreign
        return outcome

    def _write(self, outcome: Outcome, progress: Progress, answers: list[Answer]) -> None:
        keys = [self.files.run_key(answer.cell, answer.encoded.example) for answer in answers]
        rows = [self._rows.row(answer, key) for answer, key in zip(answers, keys, strict=True)]
        for answer, row in zip(answers, rows, strict=True):
            self._prompts.add(answer.encoded.example)
            self.files.file(answer.cell, answer.encoded.example.task).append(row)
            outcome.answered += 1
        progress.add(tokens=sum(row.new_tokens for row in rows))

    def _fail(self, outcome: Outcome, index: int, example: Example, reason: str) -> None:
        self._prompts.add(example)
        failure = Failure(example.id, reason, self.files.run_key(index, example))
        self.files.file(index, example.task).append(failure)
        outcome.failed += 1

    def work(self, tasks: Sequence[str]) -> list[Missing]:
        """Examples that some cell has yet to answer, and the indices of those cells."""
        each = [(example, self.files.missing(example)) for example in self.examples(tasks)]
        return [(example, missing) for example, missing in each if missing]

    def check(self, work: Sequence[Missing]) -> None:
        """Encodes the first example of each task, so that nothing is written if it cannot be asked.

        Args:
            work: examples and the cells that they miss.

        Raises:
            UserError: an example cannot be asked, is scored on another scale, or leaves a cell no
                room beside its window.
        """
        first: dict[str, Missing] = {}
        for missing in work:
            first.setdefault(missing[0].task, missing)
        for example, cells in first.values():
            check_scale(self.benchmark, example)
            encoded = self.encoder.encode(example)
            for cell in cells:
                self.cells[cell].method.check_window(encoded.template_tokens)

    def examples(self, tasks: Sequence[str]) -> list[Example]:
        """The first `limit` examples of each task, of the part and shard that is asked."""
        chosen, shard = self.of_all_shards(tasks), self.settings.shard
        return shard.take(chosen, lambda each: f"{each.task}/{each.id}") if shard else chosen

    def of_all_shards(self, tasks: Sequence[str]) -> list[Example]:
        """The examples that all shards together are asked."""
        taken: dict[str, int] = {}
        chosen = []
        for example in self._all:
            if self.validation not in (None, in_validation(example.task, example.id)):
                continue
            taken[example.task] = taken.get(example.task, 0) + 1
            within = self.settings.limit is None or taken[example.task] <= self.settings.limit
            if within and example.task in tasks:
                chosen.append(example)
        return chosen

    @cached_property
    def _all(self) -> list[Example]:
        return self.benchmark.examples(self.loaded.tokenizer)
