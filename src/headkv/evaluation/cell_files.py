"""The result files of a run's cells: what identifies a row, where it lies, and who may write it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headkv.benchmarks.base import Benchmark
from headkv.evaluation.encoding import Encoder
from headkv.evaluation.fidelity import TOKENS
from headkv.evaluation.grid import Cell
from headkv.evaluation.plan import Asked
from headkv.evaluation.settings import Settings
from headkv.models.loaded import Loaded
from headkv.records import Example
from headkv.storage.keys import digest
from headkv.storage.result_file import ResultFile, cell_path

ROW_FORMAT = 1  # raised whenever rows written before can no longer stand beside new ones
_ORIGIN = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class Run:
    """One benchmark on one model under some cells.

    Attributes:
        settings: the settings of the run.
        benchmark: the benchmark.
        loaded: the model.
        cells: the cells of the run.
        validation: True is about the validation part of the examples (see
            `headkv.storage.validation`), False about all but it, None about everything.
    """

    settings: Settings
    benchmark: Benchmark
    loaded: Loaded
    cells: Sequence[Cell]
    validation: bool | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """Says how examples are put to the model."""
        return Encoder(self.settings, self.benchmark, self.loaded)

    @property
    def folder(self) -> Path:
        """Where the results lie, `<output_dir>/<benchmark>/<model>`."""
        return self.settings.output_dir / self.benchmark.name / self.loaded.name


class CellFiles:
    """The result files of a run, each opened once.

    Args:
        run: what they are the results of.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._files: dict[tuple[int, str], ResultFile] = {}
        self._keys: dict[tuple[str, str], str] = {}

    @property
    def paths(self) -> list[Path]:
        """Every file that was asked for so far."""
        return sorted({file.path for file in self._files.values()})

    @property
    def foreign(self) -> int:
        """Number of rows of other settings in these files."""
        return sum(file.foreign for file in self._files.values())

    def file(self, index: int, task: str) -> ResultFile:
        """The result file of a cell and a task.

        Args:
            index: index of the cell.
            task: a task of the benchmark.
        """
        if (index, task) not in self._files:
            cell, method = self.run.cells[index], self.run.cells[index].method
            path = cell_path(
                self.run.folder,
                cell.name,
                method.kv_size,
                task,
                method.protocol,
                str(method.granularity),
                cell.compress_on,
            )
            identity = {**self._identity, "task": task, "cell": cell.identity}
            identity["compress_on"] = cell.compress_on
            identity["chat_template"] = self.run.encoder.templated(task)
            self._files[index, task] = ResultFile(path, digest(identity), self.run.settings.shard)
        return self._files[index, task]

    def run_key(self, index: int, example: Example) -> str:
        """The `run_key` of the row that a cell's answer to an example has.

        Args:
            index: index of the cell.
            example: the example.
        """
        return self.file(index, example.task).key(self._key(example))

    def missing(self, example: Example) -> tuple[int, ...]:
        """Indices of the cells that have not answered the example yet."""
        return self.missing_of(example.task, example.id, self._key(example))

    def missing_of(self, task: str, id: str, key: str) -> tuple[int, ...]:
        """The same of an example that is not at hand, but its task, id and `example_key`."""
        cells = range(len(self.run.cells))
        return tuple(index for index in cells if not self.file(index, task).has(id, key))

    def data(self, asked: Iterable[Asked]) -> str:
        """Hash of everything that is asked."""
        return digest(sorted(each.key for each in asked))

    def keys(self, counts: Mapping[str, int]) -> dict[str, tuple[str, int]]:
        """Result file of each cell, below the run's folder -> its key, its number of examples.

        Args:
            counts: task -> number of examples of all shards together.
        """
        found = {}
        for task, count in counts.items():
            for file in (self.file(index, task) for index in range(len(self.run.cells))):
                name = file.cell.relative_to(self.run.folder).as_posix()
                found[name] = file.cell_key, count
        return found

    def rows(self, index: int, asked: Iterable[Asked]) -> dict[tuple[str, Path], set[str]]:
        """Task and file -> run keys of a cell's rows for these examples.

        Args:
            index: index of the cell.
            asked: of any tasks.
        """
        found: dict[tuple[str, Path], set[str]] = {}
        for each in asked:
            file = self.file(index, each.task)
            found.setdefault((each.task, file.path), set()).add(file.key(each.key))
        return found

    @contextmanager
    def locked(self, files: set[tuple[int, str]]) -> Iterator[None]:
        """Inside, no other process writes these files; they are closed afterwards.

        Args:
            files: index of the cell and task of each.

        Raises:
            UserError: another process writes one of them, or it cannot be written.
        """
        with ExitStack() as ending:
            for file in (self.file(index, task) for index, task in files):
                ending.callback(file.close)
                file.lock()
            yield

    @cached_property
    def _identity(self) -> dict[str, object]:
        """What changes the output of any answer, besides the cell, the task and the example."""
        run, loaded, protocol = self.run, self.run.loaded, self.run.settings.protocol
        config = loaded.model.config.to_dict()
        identity: dict[str, object] = {
            "format": ROW_FORMAT,
            "benchmark": run.benchmark.name,
            "weights": loaded.weights,
            "dtype": str(loaded.model.dtype),
            "max_prompt_tokens": loaded.max_prompt_tokens,
            "keep_template": bool(protocol.keep_template),
            "template": loaded.tokenizer.chat_template,
            "tokenizer": digest(loaded.tokenizer.backend_tokenizer.to_str()),
            # RoPE, windows and so on, without what says where the config came from.
            "architecture": digest({k: v for k, v in config.items() if k not in _ORIGIN}),
            "end_tokens": run.encoder.ends,
            "min_new_tokens": protocol.min_new_tokens,
        }
        if run.settings.fidelity_tokens != TOKENS:
            identity["fidelity_tokens"] = run.settings.fidelity_tokens
        if run.settings.split_special_tokens:
            identity["split_special_tokens"] = True
        if run.validation is not None:  # a run on one part never goes on with the other's rows
            identity["validation"] = run.validation
        return identity

    def _key(self, example: Example) -> str:
        """The example's key; prompts are long and asked for often, so each is hashed once."""
        name = example.task, example.id
        if name not in self._keys:
            self._keys[name] = example_key(example)
        return self._keys[name]


def example_key(example: Example) -> str:
    """Hash of what an example asks, and of the answers that its score depends on."""
    asked: list[object] = [example.prompt, example.answers, example.max_new_tokens]
    # What most examples do not have is left out, so that keys stay what they were.
    more = (example.stop, example.answer_prefix, example.later_chars)
    asked += [part for part in more if part not in ((), "", None)]
    return digest(asked, 8)
