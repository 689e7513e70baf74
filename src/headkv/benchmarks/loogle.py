"""LooGLE (arXiv 2311.04939): questions on long documents, clozes, summaries.

HeadKV's four columns are the kinds of questions of LooGLE's `longdep_qa`, each a task here; the
other tasks are LooGLE's own. The scores are `headkv.metrics.loogle`'s.
"""

import ast
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.benchmarks.base import Benchmark, Wanted
from headkv.benchmarks.rows import locate, present, read_rows, unpack
from headkv.benchmarks.task_names import expand
from headkv.downloads.cached import first_line
from headkv.downloads.hub import hub_file
from headkv.errors import UserError
from headkv.metrics import loogle as metrics
from headkv.records import Example
from headkv.storage.reading import parse

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
    """What a task asks.

    Attributes:
        file: the file of the task's documents.
        max_new_tokens: longest answer in tokens: HeadKV's for its four tasks, else
            LooGLE's (`task2maxlen.json`).
        prompt: whose prompt it has, in LooGLE's `task2prompt.json` and in `WORDS`.
    """

    file: str
    max_new_tokens: int
    prompt: str = "longdep_qa"


FORMS = {
    "comprehension_and_reasoning": Form("longdep_qa.jsonl", 64),
    "multiple_information_retrieval": Form("longdep_qa.jsonl", 64),
    "timeline_reorder": Form("longdep_qa.jsonl", 32),
    "computation": Form("longdep_qa.jsonl", 32),
    "longdep_qa": Form("longdep_qa.jsonl", 500),
    "shortdep_qa": Form("shortdep_qa.jsonl", 300, "shortdep_qa"),
    "shortdep_cloze": Form("shortdep_cloze.jsonl", 50, "shortdep_cloze"),
    "longdep_summarization": Form("longdep_summarization.jsonl", 500, "longdep_summarization"),
}
_QA = (
    "Read the text and answer the question behind it as briefly as you can.\n\n{input}\n\n"
    "Question: {Q}\nAnswer:"
)
WORDS = {
    "longdep_qa": _QA,
    "shortdep_qa": _QA,
    "shortdep_cloze": (
        "Read the text and fill in the blanks of the sentence behind it. Every <mask-n> stands for "
        "the name of a person, a place or an organisation, and the same mask for the same name. "
        "Answer as in this example: {{'<mask-0>': 'Ada', '<mask-1>': 'Acme'}}\n\n{input}\n\n"
        "Sentence: {Q}\nAnswer:"
    ),
    "longdep_summarization": "Summarise the paper below.\n\n{input}\n\nSummary:",
}
"""Prompts in words of our own, for `corrected`; the published runs had LooGLE's."""
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

    def ask(self, task: str, template: str) -> Example:
        """Returns the question in the words of a task.

        Args:
            task: one that has such questions.
            template: with `{input}` once, and `{Q}` where the question goes.
        """
        head, tail = (part.format(Q=self.text) for part in template.split("{input}"))
        meta: dict[str, Any] = {}
        if task == "shortdep_cloze":
            meta = {"blanks": len(self.answer)}  # LooGLE averages over blanks, not over rows
        elif task == "longdep_qa":
            meta = {"type": self.kind}
        return Example(
            id=self.id,
            task=task,
            prompt=head + self.document + tail,
            answers=(str(self.answer),),
            max_new_tokens=FORMS[task].max_new_tokens,
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
        prompts: LooGLE's own `task2prompt.json`; None: our words, for `corrected` only.
        data_dir: the user's data; has the benchmark's files in `loogle/`.

    Raises:
        UserError: no such task, or its file or its prompt cannot be had.
    """

    name = NAME
    tasks = tuple(FORMS)

    def __init__(
        self,
        task: str | Sequence[str] | None,
        protocol: str,
        bert_score: bool = False,
        prompts: str | None = None,
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
        self.prompts = _prompts(prompts, protocol)
        self._told: set[Path] = set()

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """Yields the wanted examples document by document, whatever their task.

        So that a document is prefilled once for all that is asked about it. An example is named by
        its document and its place among the document's questions, in `longdep_qa` and in the task
        of its kind alike. Malformed entries are logged and counted.

        Raises:
            UserError: a line that is no row at all, with its number.
        """
        for file in dict.fromkeys(FORMS[task].file for task in self.chosen):
            tasks = [task for task in self.chosen if FORMS[task].file == file]
            path = self.source.folder / file
            for question in _read(path, quiet=path in self._told):
                for task in tasks:
                    meant = task not in HEADKV or question.kind == task
                    if meant and wanted(task, question.id):
                        yield question.ask(task, self.prompts[FORMS[task].prompt])
            self._told.add(path)

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


def _prompts(path: str | None, protocol: str) -> Mapping[str, str]:
    """The prompts of LooGLE's file, or ours."""
    if path is None:
        if protocol == "paper":
            raise UserError(
                "protocol=paper asks LooGLE in its own words, which are not part of this package",
                allowed="the path of LooGLE's task2prompt.json",
                do="set benchmark.prompts= to it, or protocol=corrected",
            )
        return WORDS
    try:
        found = parse(Path(path).expanduser().read_bytes())
        prompts = {name: str(found[name]) for name in WORDS}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"benchmark.prompts={path} cannot be used ({first_line(problem)})",
            allowed=f"LooGLE's task2prompt.json with {', '.join(WORDS)}",
            do="give the file's path, or leave it out",
        ) from problem
    for name, text in prompts.items():
        if text.count("{input}") != 1:
            raise UserError(
                f"the prompt of {name} in {path} does not say where the text goes",
                allowed="{input} once",
                do="mend the file",
            )
        # Braces that are no name are those of an example; `format` wants them doubled.
        doubled = re.sub(r"[{}]", lambda brace: brace[0] * 2, text)
        prompts[name] = re.sub(r"\{\{(input|Q)\}\}", r"{\1}", doubled)
    return prompts


def _read(path: Path, quiet: bool = False) -> Iterator[Question]:
    """Every question of a file, a document at a time; malformed ones are logged and counted."""
    count = malformed = document = 0
    for document, row in enumerate(read_rows(path, FIELDS), 1):
        for number, found in enumerate(_pairs(row, path.name), 1):
            count += 1
            if isinstance(found, str):
                malformed += 1
                if not quiet:
                    logger.warning("malformed, left out: %s line %d, %s", path, document, found)
            else:
                id = f"{document}-{number}"
                yield Question(id, row["input"], found["Q"], found["A"], found.get("type"))
    if malformed and not quiet:
        logger.warning(
            "%s: left out %d malformed of %d entries in %d documents of %s",
            NAME,
            malformed,
            count,
            document,
            path.name,
        )


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
    if not isinstance(answer, wanted) or answer == {} or not str(answer).strip():
        return f"{where}: no answer"
    if file == FORMS["longdep_qa"].file and pair.get("type") not in HEADKV:
        return f"{where}: type {pair.get('type')!r} is not one of {', '.join(HEADKV)}"
    return pair
