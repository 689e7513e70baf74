"""Measuring head scores: hide a needle, let the model answer, see which heads looked at it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headkv.benchmarks.haystack import Haystack
from headkv.calibration.needles import (
    HeadTest,
    Place,
    hidden_test,
    rendered,
)
from headkv.calibration.rules import RULES
from headkv.calibration.watched_model import WatchedModel
from headkv.metrics import qa_f1, rouge1
from headkv.models.prompts import Tokens, end_token_ids, tokenise
from headkv.models.spec import check_context
from headkv.records import text_config


@dataclass(frozen=True)
class Measured:
    """One test's outcome.

    Attributes:
        name: name of the test, from its place.
        answer: what the model said, or was made to say.
        success: the answer's score by the measure of the needles.
        scores: float64 `[layer, query_head]`; None if the test does not count.
    """

    name: str
    answer: str
    success: float
    scores: Tensor | None


class Finder:
    """Runs the tests of one model.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        tokenizer: the model's tokenizer.
        tests: what to measure, a `HeadTestGrid`.
        folder: folder of the essays; the half that no evaluation uses is taken.

    Attributes:
        text_id: hash of the essays.

    Raises:
        UserError: no essays.
    """

    def __init__(self, model: Any, tokenizer: Any, tests: Any, folder: Path) -> None:
        self.model, self.tokenizer, self.tests = model, tokenizer, tests
        self._check(max(tests.lengths))
        self.haystack = Haystack.read(folder, "heads", tokenizer)
        self.text_id = hashlib.sha256(self.haystack.text.encode()).hexdigest()[:16]

    @property
    def forced(self) -> bool:
        """Whether no answer of the model's own is asked for."""
        return bool(self.tests.teacher_forcing)

    def places(self) -> list[Place]:
        """The place of every test, if none makes the others superfluous."""
        return self.tests.places()

    def tables(self, counted: Sequence[Measured]) -> list[Tensor]:
        """What a score file says of each head, from the tests that count.

        Args:
            counted: finished tests with scores.

        Returns:
            float64 `[layer, query_head]` each; a head's score is their mean.
        """
        return [test.scores for test in counted if test.scores is not None]

    def outcome(self) -> dict[str, Any]:
        """What a score file's header says besides, once all is measured."""
        return {}

    def measure(self, known: dict[str, Measured] | None = None) -> Iterator[Measured]:
        """Runs the tests one by one.

        Args:
            known: finished tests by name, which are not run again.

        Raises:
            UserError: the haystack is shorter than a test's text.
        """
        for place in self.places():
            done = (known or {}).get(place.name)
            yield done or self._measure(place)

    def _measure(self, place: Place) -> Measured:
        """Hides a needle, lets the model answer and scores the heads."""
        tests, tokenizer = self.tests, self.tokenizer
        test, text = hidden_test(str(tests.needles), tests.seed, place, self.haystack, tokenizer)
        prompt = rendered(text, tokenizer, tests.chat_template)
        tokens = tokenise(tokenizer, prompt)
        self._check(len(tokens.ids))
        generated, scores = self._answer(test, tokens, self._span(test, prompt, tokens))
        answer = tokenizer.decode(generated, skip_special_tokens=True).strip()
        plain = tests.needles == "retrieval"
        success = rouge1(answer, test.answer).recall if plain else qa_f1(answer, test.answer)
        counts = tests.teacher_forcing or success > tests.success
        return Measured(place.name, answer, success, scores.cpu() if counts else None)

    def _check(self, tokens: int) -> None:
        """Refuses a prompt that has no room for its answer in the model's context."""
        least = 1 if self.forced else self.tests.max_new_tokens
        check_context(self.model.config, tokens + least, "a head test", "lower tests.lengths=")

    def _answer(
        self, test: HeadTest, prompt: Tokens, span: tuple[int, int]
    ) -> tuple[list[int], Tensor]:
        """The answer's tokens and float64 scores `[layer, query_head]`, added up by portion."""
        tests, tokenizer = self.tests, self.tokenizer
        watched = WatchedModel(self.model, prompt.ids)
        if tests.teacher_forcing:
            lead = "" if tests.chat_template else " "
            portions = watched.force(tokenise(tokenizer, lead + test.answer).ids)
        else:
            stops = set(end_token_ids(tokenizer, self.model.generation_config))
            if not tests.chat_template:  # a bare prompt goes on and on; a turn ends by itself
                stops |= {tokenise(tokenizer, mark).ids[0] for mark in ("\n", "\n\n")}
            portions = watched.answer(tests.max_new_tokens, sorted(stops))
        ids = torch.tensor(prompt.ids)
        generated: list[int] = []
        shape = len(watched.layers), text_config(self.model.config).num_attention_heads
        scores = torch.zeros(shape, dtype=torch.float64)
        for portion, rows in portions:
            if tests.keys == "prompt":
                rows = rows[..., : len(prompt.ids) - 1]
            ids = ids.to(rows.device)
            new = torch.tensor(portion, device=rows.device)
            scores = scores.to(rows.device) + RULES[str(tests.rule)](rows, new, ids, span)
            generated += portion
        return generated, scores

    def _span(self, test: HeadTest, prompt: str, tokens: Tokens) -> tuple[int, int]:
        """First and past-the-end token of the answer in its sentence, or of the whole sentence."""
        start = prompt.index(test.sentences[0])
        end = start + len(test.sentences[0])
        if self.tests.span == "answer":
            start += test.sentences[0].index(test.answer)
            end = start + len(test.answer)
        inside = [i for i, (a, b) in enumerate(tokens.spans) if b > start and a < end]
        return inside[0], inside[-1] + 1
