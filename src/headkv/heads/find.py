"""Measuring head scores: hide a needle, let the model answer, see which heads looked at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from headkv.benchmarks.haystack import Haystack, hide
from headkv.errors import UserError, choose
from headkv.heads.needles import TESTS, HeadTest
from headkv.heads.scores import RULES
from headkv.heads.watch import WatchedModel
from headkv.metrics import qa_f1, rouge1
from headkv.prompts import end_token_ids, render_user_turn, tokenise

_PROMPT = "{text}\n\nAnswer the question based on the content of the book.\nQuestion: {question}"
_OPENING = "\nAnswer:"


@dataclass(frozen=True)
class HeadTests:
    """What to measure; one test for every length, depth and repetition.

    Attributes:
        kind: `retrieval` or `retrieval_reasoning`.
        lengths: tokens of text and needles.
        depths: how many, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
        success: answers scoring above this count (ROUGE-1 recall, QA-F1); ignored when teacher
            forced, as then every test counts.
        teacher_forcing: the right answer is fed instead of the model's, for models too small to
            find it.
        chat_template: ask as a user's turn; the papers did not.
        max_new_tokens: longest answer of the model's own.
        seed: of needles, values and text.
    """

    kind: str = "retrieval"
    lengths: tuple[int, ...] = (256, 512, 1024, 1536)
    depths: int = 10
    repetitions: int = 3
    success: float = 0.5
    teacher_forcing: bool = False
    chat_template: bool = True
    max_new_tokens: int = 50
    seed: int = 1000

    def __post_init__(self) -> None:
        choose("kind", self.kind, sorted(RULES))
        object.__setattr__(self, "lengths", tuple(self.lengths))
        smallest = min([*self.lengths, self.depths, self.repetitions, self.max_new_tokens])
        if smallest < 1:
            raise UserError(
                "a length, depth count, repetition or answer length below 1",
                allowed="1 or more",
                do="change lengths=, depths=, repetitions= or max_new_tokens=",
            )

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
        success: its score by the rule of the kind.
        scores: `[layer, query_head]`; None if the test does not count.
    """

    name: str
    answer: str
    success: float
    scores: Tensor | None


def measure(model: Any, tokenizer: Any, tests: HeadTests, folder: Path) -> Iterator[Measured]:
    """Runs the tests one by one.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        tokenizer: its tokenizer.
        tests: what to measure.
        folder: of essays; the half that no evaluation uses is taken.
    """
    haystack = Haystack.read(folder, "heads", tokenizer)
    for length, depth, number in tests.grid():
        name = f"{length}-{round(100 * depth):03d}-{number}"
        rng = Random(f"{tests.seed}/{tests.kind}/{name}")
        yield _measure(model, tokenizer, tests, haystack, name, length, depth, rng)


def _measure(
    model: Any, tokenizer: Any, tests: HeadTests, haystack: Haystack,
    name: str, length: int, depth: float, rng: Random,
) -> Measured:  # fmt: skip
    test = TESTS[tests.kind](rng)
    depths = [depth, *(rng.random() for _ in test.sentences[1:])]
    placed = hide(
        haystack, test.sentences, depths, tokens=length, where=rng.random(), tokenizer=tokenizer
    )
    text = _PROMPT.format(text=placed.text, question=test.question)
    rendered = render_user_turn(tokenizer, text) if tests.chat_template else text + _OPENING
    tokens = tokenise(tokenizer, rendered)
    span = _span(tests.kind, test, rendered, tokens.spans)
    watched = WatchedModel(model, tokens.ids)
    if tests.teacher_forcing:
        lead = "" if tests.chat_template else " "
        generated = tokenise(tokenizer, lead + test.answer).ids
        rows = watched.force(generated)
    else:
        stops = set(end_token_ids(tokenizer, model.generation_config))
        if not tests.chat_template:  # a bare prompt goes on and on; a turn ends by itself
            stops |= _newlines(tokenizer)
        generated, rows = watched.answer(tests.max_new_tokens, sorted(stops))
    answer = tokenizer.decode(generated, skip_special_tokens=True).strip()
    judge = qa_f1 if tests.kind == "retrieval_reasoning" else lambda p, a: rouge1(p, a).recall
    success = judge(answer, test.answer)
    if not tests.teacher_forcing and success <= tests.success:
        return Measured(name, answer, success, None)
    device = rows.device
    scores = RULES[tests.kind](
        rows, torch.tensor(generated, device=device), torch.tensor(tokens.ids, device=device), span
    )
    return Measured(name, answer, success, scores.cpu())


def _span(
    kind: str, test: HeadTest, rendered: str, spans: list[tuple[int, int]]
) -> tuple[int, int]:
    """Tokens of the answer within its sentence; of the whole sentence for reasoning."""
    start = rendered.index(test.sentences[0])
    end = start + len(test.sentences[0])
    if kind == "retrieval":
        start += test.sentences[0].index(test.answer)
        end = start + len(test.answer)
    inside = [index for index, (a, b) in enumerate(spans) if b > start and a < end]
    return inside[0], inside[-1] + 1


def _newlines(tokenizer: Any) -> set[int]:
    """Tokens that begin a new line."""
    return {tokenise(tokenizer, mark).ids[0] for mark in ("\n", "\n\n")}
