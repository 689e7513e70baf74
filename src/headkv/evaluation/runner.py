"""Runs a benchmark: knows which examples and cells are asked for and which are missing."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from headkv.benchmarks.base import check_scale
from headkv.evaluation.answers import Answer
from headkv.evaluation.cell_files import CellFiles, Run, example_key
from headkv.evaluation.evaluator import Evaluator
from headkv.evaluation.memory import used_bytes
from headkv.evaluation.plan import Asked, Name, Work
from headkv.evaluation.progress import Progress
from headkv.evaluation.rows import RowMaker
from headkv.evaluation.scheduler import Scheduler
from headkv.evaluation.signals import orderly_end
from headkv.records import Example, Failure
from headkv.storage.result_file import PromptFile
from headkv.storage.validation import in_validation


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
    """Answers what a run asks for and lacks.

    Args:
        run: the benchmark, the model and the cells.
    """

    def __init__(self, run: Run) -> None:
        self.settings, self.benchmark, self.loaded = run.settings, run.benchmark, run.loaded
        self.cells, self.validation = run.cells, run.validation
        self.encoder, self.folder = run.encoder, run.folder
        self.files = CellFiles(run)
        fidelity = run.settings.fidelity, run.settings.fidelity_tokens
        self.evaluator = Evaluator(run.loaded, run.cells, *fidelity)
        tokenizer, seed = run.loaded.tokenizer, run.settings.seed
        self._rows = RowMaker(run.benchmark, tokenizer, run.cells, run.loaded.name, seed)
        self._prompts = PromptFile(run.folder / "prompts.ndjson")

    def scheduler(self) -> Scheduler:
        """A new scheduler, which knows nothing yet of what fits into memory."""
        together, most = self.settings.batch_size or 1, self.settings.cells_per_batch
        return Scheduler(self.encoder, self.evaluator, together, most)

    def run(self, tasks: Sequence[str], work: Work | None = None) -> Outcome:
        """Answers what is missing; SIGTERM and Ctrl-C leave a state to go on from.

        Args:
            tasks: tasks of the benchmark.
            work: what `work` returned for them; None works it out.

        Raises:
            UserError: results cannot be written, or a cell's KV size leaves no room.
            Stopped: it was told to stop.
        """
        work = self.work(tasks) if work is None else work
        with self.files.locked({(i, each.task) for each in work.missing for i in each.cells}):
            # Another process may have answered some of it before the files were locked.
            again = {
                each.name: self.files.missing_of(*each.name, each.key) for each in work.missing
            }
            return self._run(work, {name: cells for name, cells in again.items() if cells})

    def _run(self, work: Work, missing: dict[Name, tuple[int, ...]]) -> Outcome:
        asked = len(work.asked) * len(self.cells)
        outcome = Outcome(asked, asked - sum(map(len, missing.values())))
        name = f"{self.benchmark.name} {self.loaded.name}"
        memory = partial(used_bytes, self.loaded.model)
        with (
            orderly_end(lambda: outcome.left),
            Progress(name, len(missing), memory) as progress,
        ):
            self.scheduler().run(
                ((each, missing[each.task, each.id]) for each in self.stream(missing)),
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

    def work(self, tasks: Sequence[str]) -> Work:
        """What is asked, a line an example; each is built once, and dropped.

        Args:
            tasks: tasks of the benchmark.
        """
        return Work([self._asked(example) for example in self.stream(set(self.asked(tasks)))])

    def _asked(self, example: Example) -> Asked:
        return Asked(
            example.task,
            example.id,
            example_key(example),
            len(example.prompt),
            example.max_new_tokens,
            self.files.missing(example),
        )

    def check(self, work: Work) -> None:
        """Encodes the first and the longest example of each task before anything is written.

        Args:
            work: from `work`.

        Raises:
            UserError: an example cannot be asked, is scored on another scale, or leaves a cell no
                room beside its window.
        """
        by_task: dict[str, list[Asked]] = {}
        for asked in work.missing:
            by_task.setdefault(asked.task, []).append(asked)
        some = [each[0] for each in by_task.values()]
        if not self.benchmark.truncates:
            some += [max(each, key=lambda one: one.chars) for each in by_task.values()]
        cells = {asked.name: asked.cells for asked in some}
        for example in self.stream(cells):
            check_scale(self.benchmark, example)
            for index in cells[example.task, example.id]:
                cell = self.cells[index]
                encoded = self.encoder.encode(example, cell.compress_on)
                cell.method.check_window(encoded.template_tokens)

    def stream(self, names: Container[Name]) -> Iterator[Example]:
        """The examples of these names, each built when its turn comes."""
        tokenizer = self.loaded.tokenizer
        return self.benchmark.stream(tokenizer, lambda task, id: (task, id) in names)

    def examples(self, tasks: Sequence[str]) -> list[Example]:
        """The first `limit` examples of each task, of the part and shard that is asked."""
        return list(self.stream(set(self.asked(tasks))))

    def asked(self, tasks: Sequence[str]) -> list[Name]:
        """Their names; none is built for it."""
        chosen, shard = self.of_all_shards(tasks), self.settings.shard
        return shard.take(chosen, "/".join) if shard else chosen

    def of_all_shards(self, tasks: Sequence[str]) -> list[Name]:
        """The names of the examples that all shards together are asked."""
        taken: dict[str, int] = {}
        chosen: list[Name] = []

        def note(task: str, id: str) -> bool:
            if task in tasks and self.validation in (None, in_validation(task, id)):
                taken[task] = taken.get(task, 0) + 1
                if self.settings.limit is None or taken[task] <= self.settings.limit:
                    chosen.append((task, id))
            return False

        for _ in self.benchmark.stream(self.loaded.tokenizer, note):
            pass
        return chosen
