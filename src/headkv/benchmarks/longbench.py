"""LongBench (arXiv 2308.14508): 21 tasks in English and Chinese, and the 13 of LongBench-E.

The prompts are `longbench_prompts.py`'s, the scores `headkv.metrics.longbench`'s.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.longbench_prompts import load_prompt
from headkv.benchmarks.rows import locate, present, read_rows, unpack
from headkv.benchmarks.task_names import expand, listed
from headkv.config import expanded
from headkv.downloads.hub import hub_file
from headkv.errors import UserError
from headkv.metrics import longbench as metrics
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NAME = "longbench"
QA6 = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique")
CHINESE = ("multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh")
ENGLISH = (
    *QA6,
    "gov_report",
    "qmsum",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
)
WITHOUT_E = ("narrativeqa", "musique", "qmsum")
BY_LENGTH = tuple(f"{task}_e" for task in ENGLISH if task not in WITHOUT_E)
"""LongBench-E: rows of other lengths, scored apart below 4,000 words, below 8,000, and above."""

FIELDS = ("input", "context", "answers", "length", "dataset", "language", "all_classes")
FILES = tuple(f"{task}.jsonl" for task in (*ENGLISH, *CHINESE, *BY_LENGTH))
# Rows of each file by the benchmark's own statistics (task.md), 200 and 300 (-E) where not named.
ROWS = {"multifieldqa_en": 150, "lcc": 500, "repobench-p": 500}
ROWS_E = {"multifieldqa_en_e": 150, "qasper_e": 224, "multi_news_e": 294}

# Their prompts are examples or code to go on with, not a user's turn.
_PLAIN = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")
_HUB = "zai-org/LongBench"


@dataclass(frozen=True)
class LongBenchExample(Example):
    """A row of LongBench.

    Attributes:
        all_classes: the classes that the classification score chooses from.
    """

    all_classes: tuple[str, ...] = ()


class LongBench(Benchmark):
    """LongBench, or the repository's sample of it where there is no data and no network.

    Args:
        task: as the `task=` key: what will be asked, and so has to be there. None and `all` are
            content with those of the 21 tasks that `data_dir` has.
        protocol: `paper` or `corrected`: which rules score.
        prompts: folder of the official `dataset2prompt.json`; None: lm-eval's.
        data_dir: the user's data; has the benchmark's files in `longbench/`.

    Raises:
        UserError: no such task, or its file or its prompt cannot be had.
    """

    name = NAME
    tasks = (*ENGLISH, *CHINESE, *BY_LENGTH)

    def __init__(
        self,
        task: str | Sequence[str] | None,
        protocol: str,
        prompts: str | None = None,
        data_dir: Path | None = None,
    ) -> None:
        self.protocol = protocol
        whole = [_file(name) for name in (*ENGLISH, *CHINESE)]
        there = present(NAME, whole, data_dir)
        self.sets: Mapping[str, tuple[str, ...]] = {
            "qa6": QA6,
            "en16": ENGLISH,
            "zh": CHINESE,
            "e": BY_LENGTH,
            "all": tuple(Path(file).stem for file in there) or (*ENGLISH, *CHINESE),
        }
        self.chosen = expand(task, self.tasks, self.sets)
        folder = expanded("benchmark.prompts", prompts) if prompts else None
        self.prompts = {name: load_prompt(name, folder) for name in self.chosen}
        self.source = locate(NAME, [_file(name) for name in self.chosen], data_dir, fetch)
        if self.source.sample:
            self.name = f"{NAME}_sample"
        elif "all" in listed(task) and len(there) < len(whole):
            absent = ", ".join(Path(file).stem for file in whole if file not in there)
            logger.warning("not in %s, so not asked: %s", self.source.folder, absent)

    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """Returns all examples of the chosen tasks."""
        return [example for task in self.chosen for example in self.read(task)]

    def read(self, task: str) -> Iterator[LongBenchExample]:
        """Yields the examples of one of the chosen tasks, read as they are taken.

        Raises:
            UserError: a broken row, with its line.
        """
        path = self.source.folder / _file(task)
        seen = set()
        for number, row in enumerate(read_rows(path, FIELDS), 1):
            _check(row, f"{path} line {number}")
            name = str(row.get("_id") or "")
            if not name or name in seen:
                name = f"line-{number}"
            seen.add(name)
            yield self._example(task, name, row)

    def main_metric(self, task: str) -> str:
        """Returns the official metric of the task."""
        return metrics.main_metric(task)

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns every score of the task, 0 to 100, the best reference answer counting."""
        classes = example.all_classes if isinstance(example, LongBenchExample) else ()
        return metrics.score(example.task, prediction, example.answers, classes, self.protocol)

    def uses_chat_template(self, task: str) -> bool:
        """Returns whether the task is none of the few-shot and code tasks."""
        return _plain(task) not in _PLAIN

    def _example(self, task: str, id: str, row: Mapping[str, Any]) -> LongBenchExample:
        prompt = self.prompts[task]
        meta = {key: row[key] for key in ("length", "language", "dataset")}
        if task in BY_LENGTH:
            meta["bucket"] = bucket(row["length"])
        return LongBenchExample(
            id=id,
            task=task,
            prompt=prompt.fill(row),
            answers=tuple(row["answers"]),
            max_new_tokens=prompt.max_new_tokens,
            question_chars=prompt.question_chars(row),
            stop=("\n",) if _plain(task) == "samsum" else (),
            meta=meta,
            all_classes=tuple(row["all_classes"] or ()),
        )


def bucket(length: int) -> str:
    """Returns LongBench-E's column for a row of this length in words."""
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"


def fetch(folder: Path, files: Sequence[str]) -> None:
    """Downloads the hub's one archive and unpacks all 34 files, whichever are asked for.

    Raises:
        UserError: the hub cannot be reached, or its archive is broken.
    """
    unpack(hub_file(_HUB, "data.zip"), folder, FILES, f"data.zip of {_HUB}")


def rows_expected(file: str) -> int:
    """Returns how many rows a file of the benchmark has."""
    task = Path(file).stem
    return ROWS_E.get(task, 300) if task in BY_LENGTH else ROWS.get(task, 200)


def _check(row: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` where a field has the wrong type: a text for `answers` would pass."""
    lists = [row["answers"], row["all_classes"] or []]
    if (
        not all(isinstance(row[key], str) for key in ("input", "context"))
        or not isinstance(row["length"], int)
        or not row["answers"]
        or not all(isinstance(v, list) and all(isinstance(t, str) for t in v) for v in lists)
    ):
        raise UserError(
            f"{where} is no row of LongBench",
            allowed="texts for input and context, a list of texts for answers, a number for length",
            do="download the file again",
        )


def _plain(task: str) -> str:
    """The task that a LongBench-E task is another cut of."""
    return task.removesuffix("_e")


def _file(task: str) -> str:
    """The file of a task."""
    return f"{task}.jsonl"
