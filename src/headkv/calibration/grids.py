"""What the heads and layers of a model are measured on, typed and bounded, without torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from headkv.calibration.needles import COOPERATIVE, KINDS, TESTS, Place, places
from headkv.calibration.rules import RULES
from headkv.config.typed import Count, check_types
from headkv.errors import choose
from headkv.evaluation.settings import Seed

SOME = Field(min_length=1)
TEXT_KINDS = ["duo", "kvzip_head"]
"""Kinds of head scores that are measured on texts alone."""


@dataclass(frozen=True)
class HeadTestGrid:
    """What to measure; one test for every length, depth and repetition.

    Attributes:
        kind: kind of head scores, of `KINDS`; decides what is None below.
        rule: name of the rule, of `RULES`, for ablations.
        needles: kind of needles, of `TESTS`; they come with their question and their measure of
            success. The same seed hides the same needles for every rule.
        span: where attention counts, `answer` or `sentence`; None: the answer of plain needles,
            the answer's sentence of reasoning ones.
        keys: which keys a head's strongest ones are sought among, `prompt` or `all`: also the
            prompt's last token and those generated since.
        lengths: tokens of text and needles.
        depths: how many depths, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
        success: score above which an answer counts (ROUGE-1 recall; QA-F1 on reasoning needles);
            ignored when teacher forced, as then every test counts.
        teacher_forcing: the right answer is fed instead of the model's, for models too small to
            find it.
        chat_template: whether to ask as a user's turn; the papers did not.
        max_new_tokens: longest answer of the model's own, in tokens.
        seed: seed of needles, values and text.

    Raises:
        UserError: a name that is not known, or a number below 1.
    """

    kind: str = "retrieval"
    rule: str | None = None
    needles: str | None = None
    span: str | None = None
    keys: str = "prompt"
    lengths: Annotated[tuple[Count, ...], SOME] = (256, 512, 1024, 1536)
    depths: Count = 10
    repetitions: Count = 3
    success: Annotated[float, Field(ge=0, le=1)] = 0.5
    teacher_forcing: bool = False
    chat_template: bool = True
    max_new_tokens: Count = 50
    seed: Seed = 1000

    def __post_init__(self) -> None:
        choose("kind", self.kind, sorted(KINDS))
        rule = "retrieval" if self.kind == COOPERATIVE else self.kind  # the game has none
        own = {"rule": rule, "needles": KINDS[self.kind]}
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
        check_types("tests", type(self), vars(self))

    @property
    def label(self) -> str:
        """The kind, or what an ablation makes of it, for the name of the score file."""
        plain = HeadTestGrid(self.kind)
        changed = [
            f"{key}-{value}"
            for key in ("rule", "needles", "span", "keys")
            if (value := getattr(self, key)) != getattr(plain, key)
        ]
        return "_".join([self.kind, *changed])

    def places(self) -> list[Place]:
        """Returns the place of every test."""
        return places(self.lengths, self.depths, self.repetitions)


@dataclass(frozen=True)
class TextTestGrid:
    """What to measure; one test for every length and depth of the essays.

    Attributes:
        kind: of `TEXT_KINDS`.
        lengths: tokens of text.
        depths: places in the essays where a text begins, evenly spaced.
        positions: over how many positions `duo` looks at a mean query's attention (500 in kvpress).
        chat_template: whether the text is a user's turn.

    Raises:
        UserError: a kind that is not known, or a number out of bounds.
    """

    kind: str = "duo"
    lengths: Annotated[tuple[Annotated[int, Field(ge=16)], ...], SOME] = (2048,)
    depths: Count = 8
    positions: Annotated[int, Field(ge=2)] = 500
    chat_template: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        choose("kind", self.kind, TEXT_KINDS)
        check_types("texts", type(self), vars(self))

    @property
    def label(self) -> str:
        """For the name of the score file."""
        return self.kind

    def places(self) -> list[Place]:
        """The place of every test."""
        return places(self.lengths, self.depths, 1)


@dataclass(frozen=True)
class Game:
    """What is played.

    Attributes:
        sizes: shares of the heads that a coalition has (the paper: 32, 64, 96, 128 of 256).
        samples: coalitions of each size at most, each drawn with its complement.
        least: coalitions of each size before two runs that agree end the game. The paper's bound
            is absolute: utilities that hardly differ meet it long before heads have an order.
        per_prompt: coalitions of each size that one prompt answers.
        utility: `log_probability`, mean of the right answer's tokens in nats, or `probability`,
            their geometric mean, both of one forward pass (ours); or `accuracy`, the score of the
            model's own answer (the paper's).
        window: last tokens that heads outside the coalition still see.
        together: coalitions that are answered in one batch.

    Raises:
        UserError: a value of the wrong type or out of bounds.
    """

    sizes: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.125, 0.25, 0.375, 0.5)
    samples: Annotated[int, Field(ge=2)] = 250
    least: Annotated[int, Field(ge=0)] = 0
    per_prompt: Annotated[int, Field(ge=1)] = 8
    utility: Literal["log_probability", "probability", "accuracy"] = "log_probability"
    window: Annotated[int, Field(ge=1)] = 8
    together: Annotated[int, Field(ge=1)] = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        check_types("game", type(self), vars(self))

    def members(self, players: int) -> list[int]:
        """How many heads a coalition of each size has.

        Args:
            players: KV heads of the model.
        """
        return [min(max(round(players * size), 1), players - 1) for size in self.sizes]


@dataclass(frozen=True)
class ImportanceTests:
    """What to measure on; one sample for every data set, length, depth and repetition.

    Attributes:
        data_sets: kinds of needles, each normalised on its own, then averaged.
        lengths: tokens of text and needles.
        depths: how many depths, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
        probe_kv_size: mean tokens that the probe keeps a stored head, window included.
        chat_template: whether to ask as a user's turn.
        max_new_tokens: longest answer in tokens; every answer token is a decode step.
        seed: seed of needles, values and text.

    Raises:
        UserError: a name that is not known, nothing to measure on, or a number below 1.
    """

    data_sets: Annotated[tuple[str, ...], SOME] = ("retrieval", "retrieval_reasoning")
    lengths: Annotated[tuple[Count, ...], SOME] = (512, 1024)
    depths: Count = 5
    repetitions: Count = 2
    probe_kv_size: Count = 32
    chat_template: bool = True
    max_new_tokens: Count = 32
    seed: Seed = 2000

    def __post_init__(self) -> None:
        for key in ("data_sets", "lengths"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        for name in self.data_sets:
            choose("data set", name, sorted(TESTS))
        check_types("tests", type(self), vars(self))

    def grid(self) -> list[tuple[str, Place]]:
        """Returns the data set and place of every sample."""
        every = places(self.lengths, self.depths, self.repetitions)
        return [(name, place) for name in self.data_sets for place in every]
