"""LooGLE (arXiv 2311.04939): questions on long documents, clozes, summaries.

HeadKV's four columns are the kinds of questions of LooGLE's `longdep_qa`, each a task here; the
other tasks are LooGLE's own. The scores are `headkv.metrics.loogle`'s.
"""

import ast
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.rows import locate, present, read_rows, unpack
from headkv.benchmarks.task_names import expand
from headkv.downloads.cached import first_line
from headkv.downloads.hub import hub_file
from headkv.metrics import loogle as metrics
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NAME = "loogle"
FIELDS = ("input", "qa_pairs", "output")
_HUB = "bigai-nlco/LooGLE"
# What the paper's data were. Later revisions have no archive and another schema.
_REVISION = "a7bc710d20cb5036a236c5bcc804d0555bfc12b9"


@dataclass(frozen=True)
class Form:
    """How a task asks.

    Attributes:
        file: the file of the task's documents.
        max_new_tokens: longest answer in tokens: HeadKV's for its four tasks, else
            LooGLE's (`task2maxlen.json`).
        head: text before the document.
        tail: text behind the document; `{Q}` is the question.
    """

    file: str
    max_new_tokens: int
    head: str = "Please answer the question based on the long texts below. \n"
    tail: str = "\nQuestion: {Q}\nAnswer: "


# The words are LooGLE's own (`task2prompt.json`), its spelling too.
FORMS = {
    "comprehension_and_reasoning": Form("longdep_qa.jsonl", 64),
    "multiple_information_retrieval": Form("longdep_qa.jsonl", 64),
    "timeline_reorder": Form("longdep_qa.jsonl", 32),
    "computation": Form("longdep_qa.jsonl", 32),
    "longdep_qa": Form("longdep_qa.jsonl", 500),
    "shortdep_qa": Form("shortdep_qa.jsonl", 300),
    "shortdep_cloze": Form(
        "shortdep_cloze.jsonl",
        50,
        "Please fill in the clozes based on the given long texts below. Each of the placeholder "
        "'<mask-n>' in the question could be an entity of Person, Location or Organiocation. The "
        "same masks represent the same entity. Output a json format answer, for example: "
        "{'<mask-0>': 'Bob', '<mask-1>': 'Gorrosion Magazine','<mask-2>': 'Bethel Horizon'}\n",
        "\n Question: {Q} What are the masked entities? \nAnswer:",
    ),
    "longdep_summarization": Form(
        "longdep_summarization.jsonl",
        500,
        "Please generate a summary of the below paper. \n",
        "\n Summarization: ",
    ),
}
HEADKV = tuple(FORMS)[:4]
OWN = tuple(FORMS)[4:]
FILES = tuple(dict.fromkeys(form.file for form in FORMS.values()))


@dataclass(frozen=True)
class Question:
    """One question of a document.

    Attributes:
        id: document and question, counted from 1.
        document: the long text.
        text: what is asked; empty for a summary.
        answer: a text, or for a cloze a dictionary from blank to words.
        kind: of `longdep_qa`: one of HeadKV's four tasks.
    """

    id: str
    document: str
    text: str
    answer: Any
    kind: str | None

    def ask(self, task: str) -> Example:
        """Returns the question in the words of a task."""
        form = FORMS[task]
        tail = form.tail.format(Q=self.text)
        meta: dict[str, Any] = {}
        if task == "shortdep_cloze":
            meta = {"blanks": len(self.answer)}  # LooGLE averages over blanks, not over rows
        elif task == "longdep_qa":
            meta = {"type": self.kind}
        return Example(
            id=self.id,
            task=task,
            prompt=form.head + self.document + tail,
            answers=(str(self.answer),),
            max_new_tokens=form.max_new_tokens,
            question_chars=len(tail.lstrip()),
            meta=meta,
        )


class LooGLE(Benchmark):
    """LooGLE, or the repository's sample of it where there is no data and no network.

    Args:
        task: as the `task=` key: what will be asked, and so has to be there. `all` and `own` are
            content with what `data_dir` has.
        protocol: `paper` or `corrected`: which rules score.
        bert_score: whether to compute BERTScore too.
        data_dir: the user's data; has the benchmark's files in `loogle/`.

    Raises:
        UserError: no such task, or its file cannot be had.
    """

    name = NAME
    tasks = tuple(FORMS)

    def __init__(
        self,
        task: str | Sequence[str] | None,
        protocol: str,
        bert_score: bool = False,
        data_dir: Path | None = None,
    ) -> None:
        self.protocol, self.bert_score = protocol, bert_score
        there = present(NAME, FILES, data_dir) or FILES
        self.sets: Mapping[str, tuple[str, ...]] = {
            "headkv": HEADKV,
            "own": tuple(name for name in OWN if FORMS[name].file in there),
            "all": tuple(name for name in FORMS if FORMS[name].file in there),
        }
        self.chosen = expand(task, self.tasks, self.sets)
        files = list(dict.fromkeys(FORMS[name].file for name in self.chosen))
        self.source = locate(NAME, files, data_dir, fetch)
        if self.source.sample:
            self.name = f"{NAME}_sample"
        absent = [file for file in FILES if file not in there]
        names = [task or "all"] if task is None or isinstance(task, str) else task
        if absent and {"all", "own"} & set(names):
            logger.warning("not in %s, so not asked: %s", self.source.folder, ", ".join(absent))
        self._questions: dict[str, list[Question]] = {}

    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """Returns all examples of the chosen tasks; malformed entries are logged and counted."""
        return [example for task in self.chosen for example in self.read(task)]

    def read(self, task: str) -> Iterator[Example]:
        """Yields the examples of one of the chosen tasks.

        An example is named by its document and its place among the document's questions, in
        `longdep_qa` and in the task of its kind alike.

        Raises:
            UserError: a line that is no row at all, with its number.
        """
        file = FORMS[task].file
        if file not in self._questions:
            self._questions[file] = _read(self.source.folder / file)
        for question in self._questions[file]:
            if task not in HEADKV or question.kind == task:
                yield question.ask(task)

    def main_metric(self, task: str) -> str:
        """Returns HeadKV's QA-F1 for questions, LooGLE's own metric for clozes and summaries."""
        return metrics.main_metric(task)

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns every score of the task, 0 to 100."""
        return metrics.score(
            example.task, prediction, example.answers, self.protocol, with_bert=self.bert_score
        )


def fetch(folder: Path, files: Sequence[str]) -> None:
    """Downloads the hub's one archive and unpacks all four files, whichever are asked for.

    Raises:
        UserError: the hub cannot be reached, or its archive is broken.
    """
    archive = hub_file(_HUB, "data.zip", _REVISION)
    unpack(archive, folder, FILES, f"data.zip of {_HUB}, revision {_REVISION}")


def _read(path: Path) -> list[Question]:
    """Every question of a file; malformed ones are logged and counted."""
    questions, malformed, document = [], 0, 0
    for document, row in enumerate(read_rows(path, FIELDS), 1):
        for number, found in enumerate(_pairs(row, path.name), 1):
            if isinstance(found, str):
                malformed += 1
                logger.warning("malformed, left out: %s line %d, %s", path, document, found)
            else:
                id = f"{document}-{number}"
                questions.append(
                    Question(id, row["input"], found["Q"], found["A"], found.get("type"))
                )
    if malformed:
        total = len(questions) + malformed
        logger.warning(
            "%s: left out %d malformed of %d entries in %d documents of %s",
            NAME,
            malformed,
            total,
            document,
            path.name,
        )
    return questions


def _pairs(row: Mapping[str, Any], file: str) -> list[dict[str, Any] | str]:
    """The questions of a document; in the place of a malformed one what is wrong with it."""
    if not isinstance(row["input"], str) or not isinstance(row["qa_pairs"], str):
        return ["input and qa_pairs: not texts"]
    if file == FORMS["longdep_summarization"].file:
        return [_checked({"Q": "", "A": row["output"]}, file)]
    try:
        pairs = ast.literal_eval(row["qa_pairs"])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as problem:
        return [f"qa_pairs: not a Python literal ({first_line(problem)})"]
    if not isinstance(pairs, list):
        return ["qa_pairs: not a list"]
    return [_checked(pair, file) for pair in pairs]


def _checked(pair: Any, file: str) -> dict[str, Any] | str:
    """The question, or what is wrong with it."""
    if not isinstance(pair, dict) or not isinstance(pair.get("Q"), str):
        return f"{str(pair)[:80]!r}: no question"
    where, answer = f"question {pair['Q'][:80]!r}", pair.get("A")
    wanted = dict if file == FORMS["shortdep_cloze"].file else str | int | float
    if not isinstance(answer, wanted) or not str(answer).strip():
        return f"{where}: no answer"
    if file == FORMS["longdep_qa"].file and pair.get("type") not in HEADKV:
        return f"{where}: type {pair.get('type')!r} is not one of {', '.join(HEADKV)}"
    return pair
