"""Benchmarks that are files of rows: one JSON object a line, one file a task, found and checked."""

import json
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from headkv.benchmarks.base import Benchmark, Wanted
from headkv.benchmarks.rows import Fetch, locate, present, read_rows
from headkv.benchmarks.task_names import expand, listed
from headkv.downloads.hub import hub_file
from headkv.errors import UserError
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class RowFiles(Benchmark):
    """A benchmark of files, or the repository's sample of it where there are no data.

    A subclass names its tasks, `files` and `fields`, and builds the examples of a row.

    Args:
        task: as the `task=` key: what will be asked, and so has to be there. None and `all` are
            content with what `data_dir` has.
        data_dir: the user's data; has the benchmark's files in a folder of the benchmark's name.

    Attributes:
        files: task -> its file.
        fields: names that every row has, by task or for all.

    Raises:
        UserError: no such task, or its file cannot be had.
    """

    files: ClassVar[Mapping[str, str]]
    fields: ClassVar[Sequence[str]]
    fetch: ClassVar[Fetch | None] = None
    named_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self, task: str | int | Sequence[str | int] | None, data_dir: Path | None = None
    ) -> None:
        folder, every = type(self).name, list(dict.fromkeys(self.files.values()))
        there = present(folder, every, data_dir) or every
        self.tasks = tuple(self.files)
        self.sets = {
            **self.named_sets,
            "all": tuple(name for name, file in self.files.items() if file in there),
        }
        self.chosen = expand(task, self.tasks, self.sets)
        wanted = list(dict.fromkeys(self.files[name] for name in self.chosen))
        fetch = type(self).fetch
        self.source = locate(folder, wanted, data_dir, fetch)
        if self.source.sample:
            self.name = f"{folder}_sample"
        absent = [file for file in every if file not in there]
        if absent and "all" in listed(task):
            logger.warning("not in %s, so not asked: %s", self.source.folder, ", ".join(absent))

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """See `Benchmark`; rows are read as they are taken.

        Raises:
            UserError: a broken row, with its line.
        """
        for task in self.chosen:
            path = self.source.folder / self.files[task]
            for number, row in enumerate(self.rows(task, path), 1):
                yield from self.ask(task, number, row, f"{path} line {number}", wanted)

    def rows(self, task: str, path: Path) -> Iterator[dict[str, Any]]:
        """Yields the rows of a file, one a line."""
        return read_rows(path, self.fields)

    @abstractmethod
    def ask(
        self, task: str, number: int, row: Mapping[str, Any], where: str, wanted: Wanted
    ) -> Iterator[Example]:
        """Yields the wanted examples of a row.

        Args:
            task: the row's task.
            number: its line.
            row: the row.
            where: file and line, for errors.
            wanted: asked before an example is built.

        Raises:
            UserError: a field has the wrong type.
        """


def texts(row: Mapping[str, Any], fields: Sequence[str], where: str) -> list[str]:
    """Returns some fields of a row, which have to be texts.

    Raises:
        UserError: one is not.
    """
    for field in fields:
        if not isinstance(row[field], str):
            raise malformed(where, f"no text for {field}")
    return [row[field] for field in fields]


def malformed(where: str, what: str) -> UserError:
    """Returns the error of a row that is none."""
    return UserError(
        f"{where} has {what}", allowed="the benchmark's own rows", do="download the file again"
    )


def filled(template: str, context: str, **parts: object) -> tuple[str, str]:
    """Returns a prompt and its question, the part behind the context.

    Args:
        template: with `{context}` once, and a name in braces for each of the parts.
        context: the long text, which may contain braces.
        parts: what the names stand for.
    """
    head, tail = (part.format(**parts) for part in template.split("{context}"))
    return head + context + tail, tail.lstrip()


def copy_lines(repo: str, source: str, target: Path) -> None:
    """Downloads a file of the hub and writes it one JSON object a line.

    Args:
        repo: of the hub.
        source: path of a JSON list or of JSONL in it.
        target: the file to write.

    Raises:
        UserError: the hub cannot be reached.
    """
    found = hub_file(repo, source)
    if source.endswith(".jsonl"):
        target.write_bytes(found.read_bytes())
        return
    with target.open("w", encoding="utf-8") as file:
        for row in json.loads(found.read_text(encoding="utf-8")):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
