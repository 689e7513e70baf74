"""Runs a benchmark: one prefill an example, every missing cell compressed and decoded from it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from headkv.benchmarks import Benchmark
from headkv.beta import in_validation
from headkv.cells import Cell
from headkv.errors import UserError
from headkv.generate import Prefilled, Stopping, decode, prefill
from headkv.prompts import EncodedPrompt, encode, end_token_ids
from headkv.records import Example, Result
from headkv.settings import Settings
from headkv.store import ResultFile, cell_path, digest

ROW_FORMAT = 1  # raised whenever rows written before can no longer stand beside new ones


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer.

    Attributes:
        name: names the folder of its results.
        model: the transformers model.
        tokenizer: its tokenizer.
        weights: identity of the weights, for run keys.
        max_prompt_tokens: prompts are cut in the middle to this length.
        chat_template: whether the model is to be asked through its chat template.
    """

    name: str
    model: Any
    tokenizer: Any
    weights: str
    max_prompt_tokens: int
    chat_template: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        files: every result file it was asked for.
        answered: rows written by this run.
        present: rows that were there already.
        foreign: rows of other settings in the same files, neither counted nor touched.
    """

    files: list[Path]
    answered: int
    present: int
    foreign: int


class Runner:
    """One benchmark on one model.

    Args:
        settings: of the run.
        benchmark: what to ask.
        loaded: the model.
        cells: methods and sizes.
        validation: True asks only the validation part (see `headkv.beta`), False all but it, None
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
        self.ends = self._end_tokens()
        self._files: dict[tuple[int, str], ResultFile] = {}

    def run(self, tasks: Sequence[str]) -> Outcome:
        """Answers what is missing.

        Args:
            tasks: of the benchmark's.

        Raises:
            UserError: results cannot be written, or a cell's KV size leaves no room.
        """
        examples = self.examples(tasks)
        work = [(example, missing) for example in examples if (missing := self._missing(example))]
        answered = 0
        bar = tqdm(work, desc=f"{self.benchmark.name} {self.loaded.name}", unit="example")
        for example, missing in bar:
            bar.set_postfix_str(f"{len(missing)} cells of {example.id}")
            answered += self._answer(example, missing)
        return Outcome(
            sorted({file.path for file in self._files.values()}),
            answered,
            len(examples) * len(self.cells) - answered,
            sum(file.foreign for file in self._files.values()),
        )

    def rows(self, index: int, tasks: Sequence[str]) -> dict[tuple[str, Path], set[str]]:
        """Task and file -> run keys of a cell's rows for the examples of these tasks."""
        found: dict[tuple[str, Path], set[str]] = {}
        for example in self.examples(tasks):
            file = self._file(index, example.task)
            found.setdefault((example.task, file.path), set()).add(file.key(example_key(example)))
        return found

    def _end_tokens(self) -> tuple[int, ...]:
        """`paper` stopped at the tokenizer's own end token only."""
        if self.settings.protocol["all_end_tokens"]:
            return end_token_ids(self.loaded.tokenizer, self.loaded.model.generation_config)
        return (int(self.loaded.tokenizer.eos_token_id),)

    @cached_property
    def _all(self) -> list[Example]:
        return self.benchmark.examples(self.loaded.tokenizer)

    def examples(self, tasks: Sequence[str]) -> list[Example]:
        """The first `limit` examples of each task, of the part that is asked."""
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

    def _templated(self, task: str) -> bool:
        wanted = self.loaded.chat_template and self.settings.protocol["chat_template"]
        return bool(wanted) and self.benchmark.uses_chat_template(task)

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
                "chat_template": self._templated(task),
                "compress_on": self.settings.compress_on,
                "template": self.loaded.tokenizer.chat_template,
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
            self._files[index, task] = ResultFile(path, digest(identity))
        return self._files[index, task]

    def _missing(self, example: Example) -> list[int]:
        """Cells that have not answered the example yet."""
        key = example_key(example)
        return [
            index
            for index in range(len(self.cells))
            if not self._file(index, example.task).has(example.id, key)
        ]

    def _answer(self, example: Example, missing: list[int]) -> int:
        """Answers one example under the given cells and writes their rows."""
        prompt = encode(
            self.loaded.tokenizer,
            example.prompt,
            chat_template=self._templated(example.task),
            max_prompt_tokens=self.loaded.max_prompt_tokens,
            question_chars=example.question_chars,
        )
        start = time.perf_counter()
        ids = torch.tensor([self._context(example, prompt)], device=self.loaded.model.device)
        template = prompt.template_tokens if self._keeps_template() else 0
        prefilled = prefill(self.loaded.model, {"input_ids": ids}, template)
        seconds = time.perf_counter() - start
        for batch in self._batches(missing):
            for result in self._decode(example, prompt, prefilled, batch, seconds):
                index, row = result
                self._file(index, example.task).append(row)
        return len(missing)

    def _keeps_template(self) -> bool:
        """The template's tail is behind the question, so a context alone has none."""
        kept = bool(self.settings.protocol["keep_template"])
        return kept and self.settings.compress_on == "prompt"

    def _context(self, example: Example, prompt: EncodedPrompt) -> list[int]:
        """What is prefilled and compressed."""
        if self.settings.compress_on == "prompt":
            return prompt.input_ids
        if not prompt.question_tokens:
            raise UserError(
                f"{self.benchmark.name} does not tell context from question in {example.id}",
                allowed="compress_on=prompt",
                do="leave compress_on= out",
            )
        return prompt.input_ids[: -prompt.question_tokens]

    def _batches(self, missing: list[int]) -> list[list[int]]:
        """Cells that may be decoded together: same granularity, at most `batch_size`."""
        groups: dict[str, list[int]] = {}
        for index in missing:
            groups.setdefault(str(self.cells[index].method.granularity), []).append(index)
        size = self.settings.batch_size or len(missing)
        return [
            group[start : start + size]
            for group in groups.values()
            for start in range(0, len(group), size)
        ]

    def _stopping(self, example: Example) -> Stopping:
        """The model's end tokens and the example's own, none of which may come first then."""
        least = max(int(self.settings.protocol["min_new_tokens"]), bool(example.stop))
        tokenizer = self.loaded.tokenizer
        own = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in example.stop]
        return Stopping(example.max_new_tokens, (*self.ends, *own), least)

    def _decode(
        self,
        example: Example,
        prompt: EncodedPrompt,
        prefilled: Prefilled,
        batch: list[int],
        prefill_seconds: float,
    ) -> list[tuple[int, Result]]:
        """Compresses and decodes one batch of cells."""
        caches, compress_seconds, kept, held = [], [], [], []
        for index in batch:
            start = time.perf_counter()
            cache = prefilled.compress(self.cells[index].method)
            compress_seconds.append(time.perf_counter() - start)
            kept.append(int(cache.kept_tokens.sum()))
            held.append(cache.kept_bytes)
            caches.append(cache)
        start = time.perf_counter()
        stopping = self._stopping(example)
        lead = prompt.input_ids[prefilled.lengths[0] :]
        answers = decode(self.loaded.model, prefilled, caches, stopping, lead)
        share = (time.perf_counter() - start) / len(batch)
        rows = []
        for place, index in enumerate(batch):
            tokens = answers[place][0]
            text = self.loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            scores = self.benchmark.score(example, text)
            method = self.cells[index].method
            row = Result(
                id=example.id,
                prediction=text,
                answers=example.answers,
                score=scores[self.benchmark.main_metric(example.task)],
                scores=scores,
                prompt_tokens=len(prompt.input_ids),
                new_tokens=len(tokens),
                kv_size=method.kv_size,
                kept_tokens=kept[place],
                cache_bytes=held[place],
                full_cache_bytes=prefilled.nbytes,
                protocol=method.protocol,
                granularity=str(method.granularity),
                compress_on=self.settings.compress_on,
                seconds={
                    "prefill": round(prefill_seconds, 4),
                    "compress": round(compress_seconds[place], 4),
                    "decode": round(share, 4),
                },
                run_key=self._file(index, example.task).key(example_key(example)),
                meta={**example.meta, "truncated": prompt.truncated},
            )
            rows.append((index, row))
        return rows


def example_key(example: Example) -> str:
    """Hash of what an example asks; its answers may be corrected without asking again."""
    asked = [example.prompt, example.answers, example.max_new_tokens]
    return digest([*asked, example.stop] if example.stop else asked, 8)
