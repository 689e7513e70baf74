"""Measuring head scores: hide a needle, let the model answer, see which heads looked at it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from headkv.benchmarks.haystack import Haystack, hide
from headkv.calibration.needles import TESTS, HeadTest
from headkv.calibration.rules import RULES
from headkv.calibration.watched_model import WatchedModel
from headkv.errors import UserError, choose
from headkv.metrics import qa_f1, rouge1
from headkv.models.prompts import Tokens, end_token_ids, render_user_turn, tokenise

_PROMPT = "{text}\n\nAnswer the question based on the content of the book.\nQuestion: {question}"
_OPENING = "\nAnswer:"

# Needles of each kind; its rule has its own name.
KINDS = {
    "retrieval": "retrieval",
    "retrieval_reasoning": "retrieval_reasoning",
    "semantic": "retrieval",
}


@dataclass(frozen=True)
class HeadTests:
    """What to measure; one test for every length, depth and repetition.

    Attributes:
        kind: `retrieval`, `retrieval_reasoning` or `semantic`; decides what is None below.
        rule: of `RULES`, for ablations.
        needles: of `TESTS`; they come with their question and their measure of success. The same
            seed hides the same needles for every rule.
        span: where attention counts, `answer` or `sentence`; None: the answer of plain needles,
            the answer's sentence of reasoning ones.
        keys: which keys a head's strongest ones are sought among, `prompt` or `all`: also the
            prompt's last token and those generated since.
        lengths: tokens of text and needles.
        depths: how many, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
        success: answers scoring above this count (ROUGE-1 recall; QA-F1 on reasoning needles);
            ignored when teacher forced, as then every test counts.
        teacher_forcing: the right answer is fed instead of the model's, for models too small to
            find it.
        chat_template: ask as a user's turn; the papers did not.
        max_new_tokens: longest answer of the model's own.
        seed: of needles, values and text.
    """

    kind: str = "retrieval"
    rule: str | None = None
    needles: str | None = None
    span: str | None = None
    keys: str = "prompt"
    lengths: tuple[int, ...] = (256, 512, 1024, 1536)
    depths: int = 10
    repetitions: int = 3
    success: float = 0.5
    teacher_forcing: bool = False
    chat_template: bool = True
    max_new_tokens: int = 50
    seed: int = 1000

    def __post_init__(self) -> None:
        choose("kind", self.kind, sorted(KINDS))
        own = {"rule": self.kind, "needles": KINDS[self.kind]}
        for key, value in own.items():
            object.__setattr__(self, key, getattr(self, key) or value)
        if self.span is None:
            plain = self.needles == "retrieval"
            object.__setattr__(self, "span", "answer" if plain else "sentence")
        choose("tests.rule", str(self.rule), sorted(RULES))
        choose("tests.needles", str(self.needles), sorted(TESTS))
        choose("tests.span", str(self.span), ["answer", "sentence"])
        choose("tests.keys", self.keys, ["all", "prompt"])
        object.__setattr__(self, "lengths", tuple(self.lengths))
        smallest = min([*self.lengths, self.depths, self.repetitions, self.max_new_tokens])
        if smallest < 1:
            raise UserError(
                "a length, depth count, repetition or answer length below 1",
                allowed="1 or more",
                do="change lengths=, depths=, repetitions= or max_new_tokens=",
            )

    @property
    def label(self) -> str:
        """The kind, or what an ablation makes of it, for the file's name."""
        plain = HeadTests(self.kind)
        changed = [
            f"{key}-{value}"
            for key in ("rule", "needles", "span", "keys")
            if (value := getattr(self, key)) != getattr(plain, key)
        ]
        return "_".join([self.kind, *changed])

    def grid(self) -> list[tuple[int, float, int]]:
        """Length, depth and number of every test."""
        steps = max(self.depths - 1, 1)
        return [
            (length, depth / steps, number)
            for length in self.lengths
            for depth in range(self.depths)
            for number in range(self.repetitions)
        ]


@dataclass(frozen=True)
class Measured:
    """One test's outcome.

    Attributes:
        name: of the test.
        answer: what the model said, or was made to say.
        success: its score by the measure of the needles.
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
        tokenizer: its tokenizer.
        tests: what to measure.
        folder: of essays; the half that no evaluation uses is taken.

    Attributes:
        text_id: hash of the essays.
    """

    def __init__(self, model: Any, tokenizer: Any, tests: HeadTests, folder: Path) -> None:
        self.model, self.tokenizer, self.tests = model, tokenizer, tests
        self.haystack = Haystack.read(folder, "heads", tokenizer)
        self.text_id = hashlib.sha256(self.haystack.text.encode()).hexdigest()[:16]

    def measure(self, known: dict[str, Measured] | None = None) -> Iterator[Measured]:
        """The tests one by one; those in `known`, by name, are not run again."""
        for length, depth, number in self.tests.grid():
            name = f"{length}-{round(100 * depth):03d}-{number}"
            done = (known or {}).get(name)
            yield done or self._measure(name, length, depth)

    def _measure(self, name: str, length: int, depth: float) -> Measured:
        tests, tokenizer = self.tests, self.tokenizer
        rng = Random(f"{tests.seed}/{tests.needles}/{name}")
        test = TESTS[str(tests.needles)](rng)
        depths = [depth, *(rng.random() for _ in test.sentences[1:])]
        placed = hide(
            self.haystack, test.sentences, depths,
            tokens=length, where=rng.random(), tokenizer=tokenizer,
        )  # fmt: skip
        text = _PROMPT.format(text=placed.text, question=test.question)
        rendered = render_user_turn(tokenizer, text) if tests.chat_template else text + _OPENING
        tokens = tokenise(tokenizer, rendered)
        generated, scores = self._answer(test, tokens, self._span(test, rendered, tokens))
        answer = tokenizer.decode(generated, skip_special_tokens=True).strip()
        plain = tests.needles == "retrieval"
        success = rouge1(answer, test.answer).recall if plain else qa_f1(answer, test.answer)
        counts = tests.teacher_forcing or success > tests.success
        return Measured(name, answer, success, scores.cpu() if counts else None)

    def _answer(
        self, test: HeadTest, prompt: Tokens, span: tuple[int, int]
    ) -> tuple[list[int], Tensor]:
        """The answer's tokens and the scores; one portion's attention is held at a time."""
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
        shape = len(watched.layers), self.model.config.get_text_config().num_attention_heads
        scores = torch.zeros(shape, dtype=torch.float64)
        for portion, rows in portions:
            if tests.keys == "prompt":
                rows = rows[..., : len(prompt.ids) - 1]
            ids = ids.to(rows.device)
            new = torch.tensor(portion, device=rows.device)
            scores = scores.to(rows.device) + RULES[str(tests.rule)](rows, new, ids, span)
            generated += portion
        return generated, scores

    def _span(self, test: HeadTest, rendered: str, tokens: Tokens) -> tuple[int, int]:
        """Tokens of the answer within its sentence, or of the whole sentence."""
        start = rendered.index(test.sentences[0])
        end = start + len(test.sentences[0])
        if self.tests.span == "answer":
            start += test.sentences[0].index(test.answer)
            end = start + len(test.answer)
        inside = [i for i, (a, b) in enumerate(tokens.spans) if b > start and a < end]
        return inside[0], inside[-1] + 1
