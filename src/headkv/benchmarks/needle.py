"""Needles in essay text: five-digit codes to be found again, and the sentence of the papers.

A code is several tokens that nothing in the text foretells. Answers of one token or of guessable
words tell compression methods apart hardly at all: the first token still comes from the
uncompressed prefill.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.haystack import Haystack, evenly_spaced, find_essays, hide
from headkv.errors import UserError, choose
from headkv.metrics import contains, rouge1
from headkv.models.prompts import tokenise
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLES = {"single": 1, "keyed": 4, "several": 4, "sandwich": 1}
"""How many needles each task hides; one is asked for, in `several` all."""

# One word each, and questions that mirror the statements: small models answer in a whole sentence
# whatever they are told, and it has to reach the code within `max_new_tokens`.
_PLACES = ("Bergen", "Cusco", "Dakar", "Galway", "Hobart", "Izmir", "Lucknow", "Malaga")
_PEOPLE = ("Agnes", "Boris", "Casper", "Dolores", "Elena", "Felix", "Greta", "Hamish")
_FAMILIES = (
    ("secret code", _PLACES),
    ("station number", _PLACES),
    ("locker number", _PEOPLE),
    ("member code", _PEOPLE),
)
_PROMPT = (
    "Read the text and answer the question that follows it with the {codes} only.\n\n"
    "{text}\n\n"
    "{question}"  # last, so that the observation window sees what is asked
)
# The published needle test (HeadKV, CompressKV and others): its sentence, question and prompt. A
# newline ends the answer there.
_SANDWICH = (
    "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny "
    "day."
)
_SANDWICH_PROMPT = "This is a very long story book: <book> {text} </book>.\n {question}"
_SANDWICH_QUESTION = (
    "Based on the content of the book, Question: The best thing to do in San Francisco is: \n"
    "Answer:"
)
_SANDWICH_FOUND = "eat a sandwich and sit in Dolores Park"
_NEW_TOKENS = {"single": 20, "keyed": 20, "several": 60, "sandwich": 30}
_GOLDEN = 0.618034


@dataclass(frozen=True)
class NeedleConfig:
    """What to ask, typed and checked; one example for every task, length, depth and repetition.

    Attributes:
        tasks: of `single` (one code), `keyed` (four codes, one of them asked for), `several`
            (four codes, all asked for) and `sandwich` (the needle of the papers).
        lengths: tokens of haystack and needles together, 256 to 1,000,000.
        depths: how many, evenly spaced from 0 to 1, or the depths themselves, in hundredths.
        per_cell: examples per task, length and depth, 1 to 1,000.
        seed: 0 or more. Examples of another task, length, depth or repetition never change one.
        max_new_tokens: longest answer, 1 to 1,024; None: 20, `several` 60, `sandwich` 30 as in
            HeadKV (CompressKV: 50).
    """

    tasks: tuple[str, ...] = ("single", "keyed")
    lengths: tuple[int, ...] = (1024, 2048)
    depths: int | tuple[float, ...] = 5
    per_cell: int = 3
    seed: int = 0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", _listed("task", self.tasks))
        object.__setattr__(self, "lengths", _listed("lengths", self.lengths))
        if isinstance(self.depths, int):
            _check("depths", self.depths, 1, 101)
        else:
            object.__setattr__(self, "depths", _listed("depths", self.depths))
            for depth in self.depths:
                _check("depths", depth, 0, 1, whole=False)
        for task in self.tasks:
            choose("task", task, list(NEEDLES))
        for length in self.lengths:
            _check("lengths", length, 256, 1_000_000)
        _check("per_cell", self.per_cell, 1, 1000)
        _check("seed", self.seed, 0, 2**63)
        if self.max_new_tokens is not None:
            _check("max_new_tokens", self.max_new_tokens, 1, 1024)

    def depth_values(self) -> tuple[float, ...]:
        """Returns the depths themselves, to a hundredth: examples are named by it."""
        if isinstance(self.depths, int):
            return tuple(round(depth, 2) for depth in evenly_spaced(self.depths))
        return tuple(dict.fromkeys(round(depth, 2) for depth in self.depths))


class Needle(Benchmark):
    """The needle benchmark; see the module.

    Args:
        tasks: as `NeedleConfig`, and so are the next five; one value or several.
        lengths: tokens of haystack and needles together.
        depths: how many depths, or the depths themselves.
        per_cell: examples per task, length and depth.
        seed: seed of codes, keys and text.
        max_new_tokens: longest answer in tokens; None: what the task needs.
        data_dir: the user's data, whose `haystack/` is read if it has essays.
        haystack: folder of the essays, `*.txt`, in place of what `data_dir` says.

    Attributes:
        config: what to ask.
        haystack: folder of the essays.

    Raises:
        UserError: a value that cannot be used, or no essays to be had.
    """

    name = "needle"
    truncates = False

    def __init__(
        self,
        tasks: str | Sequence[str] = ("single", "keyed"),
        lengths: int | Sequence[int] = (1024, 2048),
        depths: int | Sequence[float] = 5,
        per_cell: int = 3,
        seed: int = 0,
        max_new_tokens: int | None = None,
        data_dir: Path | None = None,
        haystack: Path | None = None,
    ) -> None:
        given: dict[str, Any] = {"tasks": tasks, "lengths": lengths, "depths": depths}
        self.config = NeedleConfig(
            **given, per_cell=per_cell, seed=seed, max_new_tokens=max_new_tokens
        )
        self.haystack = find_essays(data_dir) if haystack is None else haystack
        self.tasks = self.config.tasks

    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """Returns all examples of the configuration."""
        return examples(self.config, tokenizer, self.haystack)

    def main_metric(self, task: str) -> str:
        """Returns the main metric: containment, share of the codes found, or the needle's recall.

        HeadKV's own score of that needle is `rouge1_f`. Its scale ends at 10: a mean over tasks
        would be of no scale at all.
        """
        return {"several": "found", "sandwich": "rouge1_recall"}.get(task, "contains")

    def instruction(self, task: str) -> str:
        """See `Benchmark`; the kinds of needles, not their places or people."""
        if task == "sandwich":
            return super().instruction(task)
        kinds = dict.fromkeys(what for what, _ in _FAMILIES)
        return f"Find the {' or '.join(kinds)} that is asked for in the text above."

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Scores exact containment, and what the papers report of their needles.

        Returns:
            contains: 100 if the answer stands in the prediction (of several codes all), else 0.
            found, in `several`: share of the codes that do, 0 to 100. rouge1_f: HeadKV's, 0 to 10.
            rouge1_recall: CompressKV's, 0 to 100.
        """
        (answer,) = example.answers
        wanted = [_SANDWICH_FOUND] if example.task == "sandwich" else answer.split(", ")
        found = [contains(prediction, [text]) for text in wanted]
        scores = {"contains": 100 * min(found)}
        if example.task == "several":
            scores["found"] = 100 * sum(found) / len(found)
        rouge = rouge1(prediction, answer, stem=example.task == "sandwich")  # as published
        return scores | {"rouge1_f": 10 * rouge.f, "rouge1_recall": 100 * rouge.recall}


def examples(
    config: NeedleConfig, tokenizer: "PreTrainedTokenizerBase", haystack: Path
) -> list[Example]:
    """Returns all examples, the first few of each task spread over lengths and depths.

    Args:
        config: what to ask.
        tokenizer: lengths and depths are measured in its tokens.
        haystack: folder of the essays; the half that head scores are not measured on is taken.

    Raises:
        UserError: the essays are too short, or there are none.
    """
    essays = Haystack.read(haystack, "evaluation", tokenizer)
    return [
        _example(config, task, length, depth, number, essays, tokenizer)
        for number in range(config.per_cell)
        for length, depth in _spread(config)
        for task in config.tasks
    ]


class _Asked(NamedTuple):
    """What is hidden, and what is asked about it; `prompt` has room for text and question."""

    needles: list[str]
    prompt: str
    question: str
    answer: str
    stop: tuple[str, ...] = ()


def _example(
    config: NeedleConfig,
    task: str,
    length: int,
    depth: float,
    number: int,
    essays: Haystack,
    tokenizer: "PreTrainedTokenizerBase",
) -> Example:
    """One example, the same whatever else is asked."""
    name = f"{task}-{length}-d{round(100 * depth):03d}-{number}"
    # A generator seeded by the example's own name: nothing else that is built can move it, and
    # a string seed, unlike hash(), is the same in every process.
    rng = Random(f"{config.seed}/{name}")
    asked = _sandwich() if task == "sandwich" else _codes(task, rng)
    count = len(asked.needles)
    # The first is the one asked for; the others go round from its depth in even steps.
    depths = [depth, *((depth + step / count) % 1 for step in range(1, count))]
    placed = hide(
        essays, asked.needles, depths, tokens=length, where=rng.random(), tokenizer=tokenizer
    )
    before = tokenise(tokenizer, placed.text).before(placed.spans[0][0])
    return Example(
        id=name,
        task=task,
        prompt=asked.prompt.format(text=placed.text, question=asked.question),
        answers=(asked.answer,),
        max_new_tokens=config.max_new_tokens or _NEW_TOKENS[task],
        question_chars=len(asked.question),
        stop=asked.stop,
        meta={"length": length, "depth": depth, "needle_token": before},
    )


def _codes(task: str, rng: Random) -> _Asked:
    """Codes of one family, and a question for the first of them or, in `several`, for all."""
    what, names = rng.choice(_FAMILIES)
    keys = rng.sample(names, NEEDLES[task])
    codes = [str(code) for code in rng.sample(range(10_000, 100_000), NEEDLES[task])]
    needles = [f"The {what} of {key} is {code}." for key, code in zip(keys, codes, strict=True)]
    question, answer, form = f"What is the {what} of {keys[0]}?", codes[0], "code"
    if task == "several":
        question = f"What are the {what}s of {', '.join(keys[:-1])} and {keys[-1]}?"
        answer, form = ", ".join(codes), "codes"
    return _Asked(needles, _PROMPT.replace("{codes}", form), question, answer)


def _sandwich() -> _Asked:
    """The papers' needle and question."""
    return _Asked([_SANDWICH], _SANDWICH_PROMPT, _SANDWICH_QUESTION, _SANDWICH, stop=("\n",))


def _spread(config: NeedleConfig) -> list[tuple[int, float]]:
    """Every length and depth once, neighbours in the list far apart in depth."""
    depths = config.depth_values()
    count = len(depths)
    # Steps of the golden ratio fill an interval evenly wherever one stops.
    order = sorted(range(count), key=lambda i: i * _GOLDEN % 1)
    shift = -(-count // len(config.lengths))
    return [
        (length, depths[order[(turn + place * shift) % count]])
        for turn in range(count)
        for place, length in enumerate(config.lengths)
    ]


def _listed(name: str, given: object) -> tuple[Any, ...]:
    """One value or several, repeats left out."""
    several = isinstance(given, Iterable) and not isinstance(given, str)
    values = tuple(dict.fromkeys(cast("Iterable[Any]", given) if several else [given]))
    if not values:
        raise UserError(f"{name} is empty", allowed="one or more", do=f"set {name}= to a list")
    return values


def _check(name: str, value: float, low: float, high: float, *, whole: bool = True) -> None:
    """Raises `UserError` unless the value is a number within the bounds, a whole one if `whole`."""
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        raise UserError(
            f"{name}={value!r} cannot be used",
            allowed=f"{'whole ' if whole else ''}numbers from {low} to {high}",
            do=f"change benchmark.{name}=",
        )
