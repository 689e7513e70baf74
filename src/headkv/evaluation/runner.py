"""Runs a benchmark: one prefill an example, every missing cell compressed and decoded from it."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.validation import in_validation
from headkv.evaluation.encoding import Asker
from headkv.evaluation.evaluator import Answering
from headkv.evaluation.grid import Cell
from headkv.evaluation.memory import used_bytes
from headkv.evaluation.progress import Progress
from headkv.evaluation.scheduler import Batching
from headkv.evaluation.settings import Settings
from headkv.evaluation.signals import orderly_end
from headkv.models.loaded import Loaded
from headkv.records import Example, Failure, Result
from headkv.storage.keys import digest
from headkv.storage.result_file import ResultFile, cell_path, save_prompts

__all__ = ["Loaded", "Outcome", "Runner", "example_key"]

_ORIGIN = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
ROW_FORMAT = 1  # raised whenever rows written before can no longer stand beside new ones


@dataclass
class Outcome:
    """What a run did so far.

    Attributes:
        asked: answers that were asked for.
        present: of these, rows that were there already.
        answered: rows written by this run.
        failed: answers that memory did not suffice for; the next run tries them again.
        files: every result file it was asked for.
        foreign: rows of other settings in the same files, neither counted nor touched.
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
        settings: of the run.
        benchmark: what to ask.
        loaded: the model.
        cells: methods and sizes.
        validation: True asks only the validation part (see `headkv.evaluation.tuning`), False all but it, None
            everything.
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
        self.folder = settings.output_dir / benchmark.name / loaded.name
        self.asker = Asker(settings, benchmark, loaded)
        self._files: dict[tuple[int, str], ResultFile] = {}
        self._keys: dict[tuple[str, str], str] = {}

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end any answer."""
        return self.asker.ends

    @cached_property
    def answering(self) -> Answering:
        """What runs the model."""
        return Answering(self.settings, self.benchmark, self.loaded, self.cells, self.run_key)

    def run(self, tasks: Sequence[str]) -> Outcome:
        """Answers what is missing; SIGTERM and Ctrl-C leave a state to go on from.

        Args:
            tasks: of the benchmark's.

        Raises:
            UserError: results cannot be written, or a cell's KV size leaves no room.
            SystemExit: it was told to stop.
        """
        with ExitStack() as ending:
            work = self.work(tasks)  # a finished run writes nothing
            for file in {self._file(i, example.task) for example, cells in work for i in cells}:
                ending.callback(file.close)
                file.lock()
            return self._run(tasks)

    def _run(self, tasks: Sequence[str]) -> Outcome:
        work = self.work(tasks)
        asked = len(self.examples(tasks)) * len(self.cells)
        outcome = Outcome(asked, asked - sum(len(missing) for _, missing in work))
        name = f"{self.benchmark.name} {self.loaded.name}"
        memory = partial(used_bytes, self.loaded.model)
        with (
            orderly_end(lambda: outcome.left),
            Progress(name, len(work), memory) as progress,
        ):
            together = self.settings.batch_size or 1
            write = partial(self._write, outcome)
            Batching(self.asker, self.answering, together, write, progress).run(work, tasks)
        save_prompts(self.folder / "prompts.ndjson", self.examples(tasks))
        outcome.files = sorted({file.path for file in self._files.values()})
        outcome.foreign = sum(file.foreign for file in self._files.values())
        return outcome

    def work(self, tasks: Sequence[str]) -> list[tuple[Example, tuple[int, ...]]]:
        """Examples that some cell has yet to answer, and those cells."""
        examples = self.examples(tasks)
        return [(example, missing) for example in examples if (missing := self._missing(example))]

    def _write(self, outcome: Outcome, index: int, example: Example, row: Result | Failure) -> None:
        self._file(index, example.task).append(row)
        if isinstance(row, Failure):
            outcome.failed += 1
        else:
            outcome.answered += 1

    def rows(self, index: int, tasks: Sequence[str]) -> dict[tuple[str, Path], set[str]]:
        """Task and file -> run keys of a cell's rows for the examples of these tasks."""
        found: dict[tuple[str, Path], set[str]] = {}
        for example in self.examples(tasks):
            file = self._file(index, example.task)
            found.setdefault((example.task, file.path), set()).add(self.run_key(index, example))
        return found

    def run_key(self, index: int, example: Example) -> str:
        """Of a cell's row for an example."""
        return self._file(index, example.task).key(self._key(example))

    def data(self, tasks: Sequence[str]) -> str:
        """Hash of everything that is asked."""
        return digest(sorted(map(self._key, self.examples(tasks))))

    def _key(self, example: Example) -> str:
        """The example's key; prompts are long, and asked for at every step, so each is hashed once."""
        name = example.task, example.id
        if name not in self._keys:
            self._keys[name] = example_key(example)
        return self._keys[name]

    @cached_property
    def _tokenizer(self) -> str:
        return digest(self.loaded.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def _architecture(self) -> str:
        """The model's config (RoPE, windows), without what says where it came from."""
        config = self.loaded.model.config.to_dict()
        kept = {key: value for key, value in config.items() if key not in _ORIGIN}
        return digest(kept)

    @cached_property
    def _all(self) -> list[Example]:
        return self.benchmark.examples(self.loaded.tokenizer)

    def files(self, tasks: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Result file of each cell -> its key and its examples, those of all shards together."""
        count = Counter(example.task for example in self._of_all_shards(tasks))
        files = [self._file(i, task) for task in count for i in range(len(self.cells))]
        places = [file.cell.relative_to(self.folder) for file in files]
        return {
            place.as_posix(): (file.cell_key, count[place.stem.partition("@")[0]])
            for place, file in zip(places, files, strict=True)
        }

    def examples(self, tasks: Sequence[str]) -> list[Example]:
        """The first `limit` examples of each task, of the part and shard that is asked."""
        chosen, shard = self._of_all_shards(tasks), self.settings.shard
        return shard.take(chosen, lambda each: f"{each.task}/{each.id}") if shard else chosen

    def _of_all_shards(self, tasks: Sequence[str]) -> list[Example]:
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

    def _file(self, index: int, task: str) -> ResultFile:
        """The result file of a cell and task, opened once."""
        if (index, task) not in self._files:
            cell = self.cells[index]
            method = cell.method
            identity = {
                "format": ROW_FORMAT,
                "benchmark": self.benchmark.name,
                "task": task,
                "weights": self.loaded.weights,
                "dtype": str(self.loaded.model.dtype),
                "max_prompt_tokens": self.loaded.max_prompt_tokens,
                "chat_template": self.asker.templated(task),
                "compress_on": self.settings.compress_on,
                "keep_template": bool(self.settings.protocol["keep_template"]),
                "template": self.loaded.tokenizer.chat_template,
                "tokenizer": self._tokenizer,
                "architecture": self._architecture,
                "end_tokens": self.ends,
                "min_new_tokens": self.settings.protocol["min_new_tokens"],
                "cell": cell.identity,
            }
            if self.validation is not None:  # a run on one part never goes on with the other's rows
                identity["validation"] = self.validation
            path = cell_path(
                self.folder,
                cell.name,
                method.kv_size,
                task,
                method.protocol,
                str(method.granularity),
                self.settings.compress_on,
            )
            self._files[index, task] = ResultFile(path, digest(identity), self.settings.shard)
        return self._files[index, task]

    def _missing(self, example: Example) -> tuple[int, ...]:
        """Cells that have not answered the example yet."""
        key = self._key(example)
        return tuple(
            index
            for index in range(len(self.cells))
            if not self._file(index, example.task).has(example.id, key)
        )


def example_key(example: Example) -> str:
    """Hash of what an example asks, and of the answers that its score depends on."""
    asked = [example.prompt, example.answers, example.max_new_tokens]
    return digest([*asked, example.stop] if example.stop else asked, 8)
