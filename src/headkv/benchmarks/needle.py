"""Needles in essay text: five-digit codes to be found again.

A code is several tokens that nothing in the text foretells. Answers of one token or of guessable
words tell compression methods apart hardly at all: the first token still comes from the
uncompressed prefill.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

from headkv.benchmarks import Benchmark
from headkv.benchmarks.haystack import Haystack, hide
from headkv.errors import UserError, choose
from headkv.metrics import best_over, contains, rouge1
from headkv.prompts import tokenise
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLES = {"single": 1, "keyed": 4}
"""How many needles each task hides; one is asked for."""

# One word each and a question that mirrors the statement: small models answer in a whole sentence
# whatever they are told, and it has to reach the code within `max_new_tokens`.
_PLACES = ("Bergen", "Cusco", "Dakar", "Galway", "Hobart", "Izmir", "Lucknow", "Malaga")
_PEOPLE = ("Agnes", "Boris", "Casper", "Dolores", "Elena", "Felix", "Greta", "Hamish")
_FAMILIES = (
    ("The secret code of {name} is {code}.", "What is the secret code of {name}?", _PLACES),
    ("The station number of {name} is {code}.", "What is the station number of {name}?", _PLACES),
    ("The locker number of {name} is {code}.", "What is the locker number of {name}?", _PEOPLE),
    ("The member code of {name} is {code}.", "What is the member code of {name}?", _PEOPLE),
)
_PROMPT = (
    "Read the text and answer the question that follows it with the code only.\n\n"
    "{text}\n\n"
    "{question}"  # last, so that the observation window sees what is asked
)
_GOLDEN = 0.618034


@dataclass(frozen=True)
class NeedleConfig:
    """What to ask; one example for every task, length, depth and repetition.

    Attributes:
        tasks: of `single` (one code) and `keyed` (four codes, one of them asked for).
        lengths: tokens of haystack and needles together, 256 to 1,000,000.
        depths: how many, evenly spaced from 0 to 1, or the depths themselves, in hundredths.
        per_cell: examples per task, length and depth, 1 to 1,000.
        seed: 0 or more. Examples of another task, length, depth or repetition never change one.
        max_new_tokens: longest answer, 1 to 1,024.
    """

    tasks: tuple[str, ...] = ("single", "keyed")
    lengths: tuple[int, ...] = (1024, 2048)
    depths: int | tuple[float, ...] = 5
    per_cell: int = 3
    seed: int = 0
    max_new_tokens: int = 20

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
        _check("max_new_tokens", self.max_new_tokens, 1, 1024)

    def depth_values(self) -> tuple[float, ...]:
        """The depths themselves, to a hundredth: examples are named by it."""
        if isinstance(self.depths, int):
            return tuple(round(i / max(self.depths - 1, 1), 2) for i in range(self.depths))
        return tuple(dict.fromkeys(round(depth, 2) for depth in self.depths))


class Needle(Benchmark):
    """The needle benchmark; see the module.

    Args:
        config: what to ask.
        haystack: folder of the essays, `*.txt`.
    """

    name = "needle"

    def __init__(self, config: NeedleConfig, haystack: Path) -> None:
        self.config, self.haystack = config, haystack
        self.tasks = config.tasks

    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """All examples of the configuration."""
        return examples(self.config, tokenizer, self.haystack)

    def main_metric(self, task: str) -> str:
        """Exact containment."""
        return "contains"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Exact containment (0 or 100), and what the papers report of their needles.

        Returns:
            contains: 100 if the code stands in the answer. rouge1_f: HeadKV's, 0 to 10.
            rouge1_recall: CompressKV's, 0 to 100.
        """
        answers = example.answers
        return {
            "contains": 100 * contains(prediction, answers),
            "rouge1_f": 10 * best_over(lambda p, a: rouge1(p, a).f, prediction, answers),
            "rouge1_recall": 100 * best_over(lambda p, a: rouge1(p, a).recall, prediction, answers),
        }


def examples(
    config: NeedleConfig, tokenizer: "PreTrainedTokenizerBase", haystack: Path
) -> list[Example]:
    """All examples of `config`, the first few of each task spread over lengths and depths."""
    essays = Haystack.read(haystack, "evaluation", tokenizer)
    return [
        _example(config, task, length, depth, number, essays, tokenizer)
        for number in range(config.per_cell)
        for length, depth in _spread(config)
        for task in config.tasks
    ]


def _example(
    config: NeedleConfig,
    task: str,
    length: int,
    depth: float,
    number: int,
    essays: Haystack,
    tokenizer: "PreTrainedTokenizerBase",
) -> Example:
    name = f"{task}-{length}-d{round(100 * depth):03d}-{number}"
    # A generator seeded by the example's own name: nothing else that is built can move it, and
    # a string seed, unlike hash(), is the same in every process.
    rng = Random(f"{config.seed}/{name}")
    count = NEEDLES[task]
    statement, question, names = rng.choice(_FAMILIES)
    keys = rng.sample(names, count)
    codes = [str(code) for code in rng.sample(range(10_000, 100_000), count)]
    needles = [statement.format(name=key, code=code) for key, code in zip(keys, codes, strict=True)]
    # The one asked for is the first; the others go round from its depth in even steps.
    depths = [depth, *((depth + step / count) % 1 for step in range(1, count))]
    placed = hide(essays, needles, depths, tokens=length, where=rng.random(), tokenizer=tokenizer)
    before = tokenise(tokenizer, placed.text).before(placed.spans[0][0])
    asked = question.format(name=keys[0])
    return Example(
        id=name,
        task=task,
        prompt=_PROMPT.format(text=placed.text, question=asked),
        answers=(codes[0],),
        max_new_tokens=config.max_new_tokens,
        question_chars=len(asked),
        meta={"length": length, "depth": depth, "needle_token": before},
    )


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
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        raise UserError(
            f"{name}={value!r} cannot be used",
            allowed=f"{'whole ' if whole else ''}numbers from {low} to {high}",
            do=f"change benchmark.{name}=",
        )
