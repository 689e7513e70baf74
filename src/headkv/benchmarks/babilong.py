"""BABILong (arXiv 2406.10149), HeadKV's reason-in-a-haystack: facts scattered in book text.

The prompts are those of BABILong's runs of instruction-tuned models, `babilong_prompts.py`'s; the
score is `headkv.metrics.babilong`'s.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from headkv.benchmarks.babilong_prompts import load_prompt
from headkv.benchmarks.base import Benchmark, Wanted
from headkv.benchmarks.rows import SAMPLES, locate, present, read_rows
from headkv.benchmarks.task_names import expand
from headkv.downloads.hub import hub_file
from headkv.errors import UserError, choose
from headkv.metrics import babilong as metrics
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NAME = "babilong"
TASKS = tuple(f"qa{number}" for number in range(1, 21))
HEADKV = TASKS[:5]
"""The tasks of HeadKV's table."""
SHORT = TASKS[10:]
"""Tasks that the hub has without surrounding text only."""
LENGTHS = ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k")
FIELDS = ("input", "question", "target")
_HUB = "RMT-team/babilong"  # 100 rows for each task and length
_PROMPT = "{instruction}\n{examples}\n{post_prompt}\n<context>\n{context}\n</context>\n{question}"


class BabiLong(Benchmark):
    """BABILong, or the repository's sample of it where there is no data and no network.

    Args:
        task: as the `task=` key: what will be asked, and so has to be there. None and `all` are
            content with what `data_dir` has. A task is named by task and length (`qa1_4k`); `qa1`
            is all its lengths, `4k` all tasks of that length, `headkv` qa1 to qa5.
        protocol: `paper` or `corrected`: which rule scores.
        lengths: of `LENGTHS`, one or several.
        max_new_tokens: longest answer in tokens; 15 in HeadKV.
        prompts: task -> `instruction`, `examples`, `post_prompt`, in place of the published ones.
        data_dir: the user's data; has the benchmark's files in `babilong/`, named
            `<task>_<length>.jsonl`.

    Raises:
        UserError: no such task or length, or its file cannot be had.
    """

    name = NAME

    truncates = False

    def __init__(
        self,
        task: str | Sequence[str] | None,
        protocol: str,
        lengths: str | Sequence[str],
        max_new_tokens: Annotated[int, Field(ge=1)],
        prompts: Mapping[str, Mapping[str, str]] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        self.protocol, self.max_new_tokens = protocol, max_new_tokens
        given = [lengths] if isinstance(lengths, str) else lengths
        chosen_lengths = [choose("lengths", str(length), list(LENGTHS)) for length in given]
        every = [
            f"{name}_{length}"
            for name in TASKS
            for length in chosen_lengths
            if length == "0k" or name not in SHORT
        ]
        there = {Path(file).stem for file in present(NAME, _files(every), data_dir)}
        self._offer(every, [name for name in every if name in there] or every)
        self.chosen = expand(task, self.tasks, self.sets)
        try:
            self.source = locate(NAME, _files(self.chosen), data_dir, fetch)
        except UserError:
            # The sample has short texts only: those of them that were meant.
            short = [name for name in self.chosen if (SAMPLES / NAME / _file(name)).is_file()]
            if not short:
                raise
            source = locate(NAME, _files(short), data_dir, None)
            if not source.sample:
                raise
            self.source, self.chosen = source, short
            self._offer(short, short)
        if self.source.sample:
            self.name = f"{NAME}_sample"
        self.prompts = {
            kind: (prompts or {}).get(kind) or load_prompt(kind)
            for kind in dict.fromkeys(name.split("_")[0] for name in self.chosen)
        }
        absent = [name for name in every if name not in self.chosen]
        if absent and (task is None or "all" in task):
            logger.warning("not in %s, so not asked: %s", self.source.folder, ", ".join(absent))

    def _offer(self, tasks: Sequence[str], default: Sequence[str]) -> None:
        """Sets the names that `task=` may take."""
        self.tasks = tuple(tasks)
        parts = {part: None for name in tasks for part in name.split("_")}
        self.sets: Mapping[str, tuple[str, ...]] = {
            **{part: self._part(part, tasks, default) for part in parts},
            "headkv": tuple(name for name in default if name.split("_")[0] in HEADKV),
            "all": tuple(default),
        }

    @staticmethod
    def _part(part: str, tasks: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        """A task at all lengths; or the tasks of a length, beyond HeadKV's those that are there."""
        named = [name for name in tasks if part in name.split("_")]
        if part in TASKS:
            return tuple(named)
        return tuple(n for n in named if n.split("_")[0] in HEADKV or n in default)

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """Yields the wanted examples, named by their number in the file.

        Raises:
            UserError: a broken row, with its line.
        """
        for task in self.chosen:
            yield from self._read(task, wanted)

    def _read(self, task: str, wanted: Wanted) -> Iterator[Example]:
        path = self.source.folder / _file(task)
        kind, length = task.split("_")
        for number, row in enumerate(read_rows(path, FIELDS), 1):
            if not wanted(task, f"{number:03d}"):
                continue
            if not all(isinstance(row[field], str) for field in FIELDS):
                raise UserError(
                    f"{path} line {number} is no row of BABILong",
                    allowed=f"texts for {', '.join(FIELDS)}",
                    do="download the file again",
                )
            question = f"Question: {row['question'].strip()}"
            prompt = _PROMPT.format(
                **self.prompts[kind], context=row["input"].strip(), question=question
            )
            yield Example(
                id=f"{number:03d}",
                task=task,
                prompt=prompt,
                answers=(row["target"],),
                max_new_tokens=self.max_new_tokens,
                question_chars=len(question),
                meta={"length": length, "question": row["question"].strip()},
            )

    def main_metric(self, task: str) -> str:
        """Returns the one metric there is, the exact-label rule."""
        return "exact_label"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Scores an answer 100 or 0 by the exact-label rule."""
        value = metrics.score(
            example.task, prediction, example.answers[0], example.meta["question"], self.protocol
        )
        return {"exact_label": value}


def _files(tasks: Iterable[str]) -> list[str]:
    """The file of each task."""
    return [_file(task) for task in tasks]


def fetch(folder: Path, files: Sequence[str]) -> None:
    """Downloads files of the hub's 100-row edition and writes them as JSONL.

    Raises:
        UserError: the hub cannot be reached, or has no such file.
    """
    from datasets import Dataset  # takes seconds, and is needed only here

    for name in files:
        task, length = Path(name).stem.split("_")
        found = hub_file(_HUB, f"data/{task}/{length}.json")
        with tempfile.TemporaryDirectory() as scratch:
            rows = Dataset.from_json(str(found), cache_dir=scratch, keep_in_memory=True)
            rows.to_json(folder / name, force_ascii=False)


def _file(task: str) -> str:
    """The file of a task."""
    return f"{task}.jsonl"
