"""What RULER's tasks share: prompts, noise, and putting sentences between others.

The words of the prompts are RULER's, out of lm-eval's wheel; the noise is ours (docs/parity.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from headkv.benchmarks.haystack import SENTENCE_END, evenly_spaced
from headkv.benchmarks.lm_eval_files import constant

NOISE = (
    "The river is calm.",
    "The hill is quiet.",
    "The road is long.",
    "We walk on.",
    "Out and home again.",
)
"""The noise haystack is these five sentences on every line."""
DEPTHS = [round(100 * depth) for depth in evenly_spaced(40)]
"""Depths that needles in essays take, in hundredths of the sentences, each at most one."""


@dataclass(frozen=True)
class Text:
    """An example's text at some size.

    Attributes:
        prompt: the user's text.
        question: its end, behind the context.
        answer_prefix: how the answer begins.
        answers: the references.
        meta: depths and other facts for the row.
    """

    prompt: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


Build = Callable[[int], Text]


@dataclass(frozen=True)
class Template:
    """A task's prompt: text with `{context}`, and the beginning of the answer."""

    text: str
    answer_prefix: str

    def fill(self, context: str, **parts: object) -> tuple[str, str, str]:
        """Returns prompt, question and answer prefix."""
        head, tail = (part.format(**parts) for part in self.text.split("{context}"))
        return head + context + tail, tail.lstrip(), self.answer_prefix.format(**parts)


@cache
def template(task: str) -> Template:
    """Returns the template of `niah`, `vt`, `cwe`, `fwe` or `qa`.

    Raises:
        UserError: lm-eval's wheel cannot be had.
    """
    if task == "niah":
        text = str(constant("niah_utils.py", "TEMPLATE"))
        # The answer begins with the question turned into a statement, in RULER and here.
        question = text.rpartition("\n")[2].removeprefix("What are all the ").removesuffix("?")
        return Template(text, f"The {question} are")
    content = constant(f"{task}_utils.py", "CONFIG")
    content = content.get("variable_tracking", content)
    prefix = content["answer_prefix"].lstrip().replace("assgined", "assigned")
    return Template(content["template"], prefix)


def noise(sentences: int) -> list[str]:
    """Returns the noise haystack of so many sentences, line by line."""
    lines, rest = divmod(sentences, len(NOISE))
    return [" ".join(NOISE)] * lines + ([" ".join(NOISE[:rest])] if rest else [])


def sentences(text: str) -> list[str]:
    """Returns a text of single blanks, sentence by sentence."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    pieces = [text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def take(words: Sequence[str], count: int) -> str:
    """Returns the first words, again from the beginning if there are not so many."""
    whole, rest = divmod(count, len(words))
    return " ".join([*words] * whole + [*words[:rest]])


def places(units: int, needles: int, rng: Random, even: bool) -> list[int]:
    """Draws between which units the needles go, ascending, no two at one place if there is room.

    Args:
        units: how many sentences or lines there are.
        needles: how many go between them.
        rng: draws the places.
        even: whether they are of `DEPTHS`; else any.
    """
    found = sorted({units * depth // 100 for depth in DEPTHS}) if even else list(range(units))
    if len(found) < needles:
        return sorted(rng.choices(found or [0], k=needles))
    return sorted(rng.sample(found, needles))


def merged(units: list[str], needles: Sequence[str], where: Sequence[int]) -> list[str]:
    """Returns the units with the needles between them, each before the unit at its place."""
    parts, done = [], 0
    for needle, place in zip(needles, where, strict=True):
        parts += [*units[done:place], needle]
        done = place
    return parts + units[done:]


def new(draw: Callable[[Random], str], rng: Random, drawn: set[str]) -> str:
    """Draws until the word is a new one."""
    while (word := draw(rng)) in drawn:
        pass
    drawn.add(word)
    return word


def shuffled(words: list[str], rng: Random) -> list[str]:
    """Shuffles a list in place and returns it."""
    rng.shuffle(words)
    return words


def numbered(words: Sequence[str]) -> str:
    """Returns words as `1. one 2. two`."""
    return " ".join(f"{place}. {word}" for place, word in enumerate(words, 1))
