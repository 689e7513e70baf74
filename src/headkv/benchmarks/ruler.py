"""RULER (arXiv 2404.06654): eleven tasks made from a seed at any length, and two on documents.

What the tasks are is `ruler_tasks.py`'s, the documents `ruler_documents.py`'s, the scores
`headkv.metrics.ruler`'s. A length is that of the prompt, chat template and answer prefix included,
and the answer together, in tokens of the model at hand.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from headkv.benchmarks.base import Benchmark, Wanted
from headkv.benchmarks.haystack import find_essays, read_essays
from headkv.benchmarks.rows import locate
from headkv.benchmarks.ruler_documents import FILES, Documents, fetch, read_documents
from headkv.benchmarks.ruler_tasks import (
    NIAH,
    common_words,
    documents,
    frequent_words,
    niah,
    variables,
    worked_variables,
)
from headkv.benchmarks.ruler_texts import Build, Text
from headkv.benchmarks.sizes import count_tokens, largest_size
from headkv.benchmarks.task_names import expand, listed
from headkv.errors import UserError
from headkv.metrics import ruler as metrics
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NAME = "ruler"
QA = ("qa_1", "qa_2")
SYNTHETIC = (*NIAH, "vt", "cwe", "fwe")
TASKS = (*SYNTHETIC, *QA)
NEW_TOKENS = dict.fromkeys(NIAH, 128) | {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}
LENGTHS = (256, 2**21)
"""Shortest and longest length, in tokens."""
_WORKED_TOKENS = 500  # of the worked example of vt
_LEAST = {"cwe": 1, "fwe": 60, "vt": 25} | dict.fromkeys(QA, 1) | dict.fromkeys(NIAH, 5)


class Ruler(Benchmark):
    """RULER; of the two tasks on documents the repository's sample where there are no data.

    Args:
        task: as the `task=` key: a task at a length (`vt_4096`), all lengths of a task (`vt`), of
            several (`niah`, `qa`), or all tasks of a length (`4096`). None and `all` take the
            tasks on documents only where their files are.
        lengths: tokens of prompt and answer, one length or several.
        examples_per_task: of each task and length; 500 in RULER.
        seed: of all that is drawn.
        chat_template: whether the template's tokens count, for it will be used.
        data_dir: the user's data: `ruler/squad.json`, `ruler/hotpotqa.json`, `haystack/*.txt`.

    Raises:
        UserError: no such task, a length that cannot be, or its files cannot be had.
    """

    name = NAME
    truncates = False

    def __init__(
        self,
        task: str | int | Sequence[str | int] | None = None,
        lengths: int | Sequence[int] = 4096,
        examples_per_task: int = 500,
        seed: int = 0,
        chat_template: bool = True,
        data_dir: Path | None = None,
    ) -> None:
        self.lengths = tuple(dict.fromkeys([lengths] if isinstance(lengths, int) else lengths))
        for length in self.lengths:
            if not LENGTHS[0] <= length <= LENGTHS[1]:
                raise UserError(
                    f"lengths={length} cannot be used",
                    allowed=f"tokens from {LENGTHS[0]} to {LENGTHS[1]:,}",
                    do="change lengths=",
                )
        if examples_per_task < 1:
            raise UserError(
                f"examples_per_task={examples_per_task}", allowed="1 or more", do="change it"
            )
        self.count, self.seed = examples_per_task, seed
        self.chat_template, self.data_dir = chat_template, data_dir
        self.tasks = tuple(f"{name}_{length}" for length in self.lengths for name in TASKS)
        groups: dict[str, Sequence[str]] = {name: (name,) for name in TASKS}
        groups |= {"niah": tuple(NIAH), "synthetic": SYNTHETIC, "qa": QA}
        own = data_dir / NAME if data_dir is not None else None
        there = [name for name in QA if own is not None and (own / FILES[name]).is_file()]
        self.sets: Mapping[str, tuple[str, ...]] = {
            **{name: self._at(names) for name, names in groups.items()},
            **{str(length): self._at(TASKS, [length]) for length in self.lengths},
            "all": self._at((*SYNTHETIC, *there)),
        }
        self.chosen = expand(task, self.tasks, self.sets)
        wanted = [name for name in QA if any(_split(each)[0] == name for each in self.chosen)]
        self._documents: dict[str, Documents] = {}
        self._folder: Path | None = None
        if wanted:
            source = locate(NAME, [FILES[name] for name in wanted], data_dir, fetch)
            self._folder = source.folder
            if source.sample:
                self.name = f"{NAME}_sample"
        elif "all" in listed(task) and len(there) < len(QA):
            logger.info("no data for qa_1 and qa_2, so not asked; task=qa says more")
        self.longest = max(_split(each)[1] for each in self.chosen)
        self._sizes: dict[tuple[str, int], int] = {}

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """See `Benchmark`; an example is the same whatever else is built."""
        for task in self.chosen:
            for number in range(self._count(task)):
                if wanted(task, f"{number:03d}"):
                    yield self._example(task, number, tokenizer)

    def main_metric(self, task: str) -> str:
        """Returns RULER's `string_match_all`, or `string_match_part` where any answer is right."""
        return "string_match_part" if _split(task)[0] in QA else "string_match_all"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns the share of the references found, or whether any is, 0 to 100."""
        metric = self.main_metric(example.task)
        found = metrics.any_found if metric == "string_match_part" else metrics.all_found
        return {metric: 100 * found(prediction, example.answers)}

    def _at(self, names: Sequence[str], lengths: Sequence[int] | None = None) -> tuple[str, ...]:
        return tuple(f"{name}_{each}" for each in lengths or self.lengths for name in names)

    def _count(self, task: str) -> int:
        name = _split(task)[0]
        return min(self.count, len(self._read(name).questions)) if name in QA else self.count

    def _example(self, task: str, number: int, tokenizer: "PreTrainedTokenizerBase") -> Example:
        name, length = _split(task)
        text = self._text(task, number, tokenizer)
        if text is None:
            raise UserError(
                f"{task} does not fit into {length} tokens with its answer",
                allowed="a length that its smallest text fits into",
                do="raise lengths=, or leave the task out",
            )
        return Example(
            id=f"{number:03d}",
            task=task,
            prompt=text.prompt,
            answers=text.answers,
            max_new_tokens=NEW_TOKENS[name],
            question_chars=len(text.question),
            answer_prefix=text.answer_prefix,
            meta={"length": length, **text.meta},
        )

    def _text(self, task: str, number: int, tokenizer: "PreTrainedTokenizerBase") -> Text | None:
        """The example's text at the largest size; None: even the smallest is too long."""
        name, length = _split(task)
        if number and (task, id(tokenizer)) not in self._sizes:
            self._text(task, 0, tokenizer)  # where searches begin, for an example never moves
        # A generator seeded by the example's own name: nothing else that is built can move it.
        rng = Random(f"{self.seed}/{task}/{number}")
        build = self._build(name, length, number, rng, tokenizer)
        guess = self._sizes.get((task, id(tokenizer)), length // 8)
        size = self._fit(build, length - NEW_TOKENS[name], _LEAST[name], guess, tokenizer)
        if size is None:
            return None
        self._sizes.setdefault((task, id(tokenizer)), size)
        return build(size)

    def _fit(
        self,
        build: Build,
        bound: int,
        least: int,
        guess: int,
        tokenizer: "PreTrainedTokenizerBase",
    ) -> int | None:
        def tokens(size: int) -> int:
            text = build(size)
            return count_tokens(tokenizer, text.prompt, text.answer_prefix, self.chat_template)

        found = largest_size(tokens, bound, least, guess)
        return None if found is None else found[0]

    def _build(
        self, name: str, length: int, number: int, rng: Random, tokenizer: "PreTrainedTokenizerBase"
    ) -> Build:
        if name in NIAH:
            return niah(NIAH[name], rng, self._essay if NIAH[name].haystack == "essay" else ())
        if name == "cwe":
            return common_words(rng, length)
        if name == "fwe":
            return frequent_words(rng, length)
        if name in QA:
            return documents(*self._read(name).example(number, rng), rng)
        key = ("worked example", id(tokenizer))
        if key not in self._sizes:
            worked = worked_variables(Random(f"{self.seed}/worked"))
            least, bound = _LEAST["vt"], min(_WORKED_TOKENS, length // 4)
            self._sizes[key] = self._fit(worked, bound, least, least, tokenizer) or least
        return variables(rng, self._sizes[key])

    def _read(self, name: str) -> Documents:
        if name not in self._documents:
            assert self._folder is not None
            self._documents[name] = read_documents(self._folder / FILES[name])
        return self._documents[name]

    @cached_property
    def _essay(self) -> list[str]:
        """Words of the half of the essays that no head score is measured on."""
        return " ".join(read_essays(find_essays(self.data_dir))[0::2]).split()


def _split(task: str) -> tuple[str, int]:
    """A task's name and length."""
    name, _, length = task.rpartition("_")
    return name, int(length)
