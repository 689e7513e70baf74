"""RULER's synthetic tasks (arXiv 2404.06654), built at any size: needles, variables, word counts.

A task draws an example's keys and answers first; the returned function then builds its text at the
size that is asked for, with the same keys and answers each time. The words of the prompts are
RULER's, out of lm-eval's wheel; the noise is ours (docs/parity.md).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi
from random import Random
from string import ascii_uppercase

from headkv.benchmarks.ruler_texts import (
    Build,
    Template,
    Text,
    merged,
    new,
    noise,
    numbered,
    places,
    sentences,
    shuffled,
    take,
    template,
)
from headkv.benchmarks.words import all_words, letters, number, pair, uuid

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
SHORT = 4096
"""Below this length common words are fewer, as RULER has them."""


@dataclass(frozen=True)
class Variant:
    """A needle task.

    Attributes:
        haystack: `noise`, `essay`, or `needle`: lines of other needles.
        key: draws a key.
        value: draws a value.
        kind: what the values are called.
        keys: how many keys are hidden.
        values: how many values each has.
        queries: how many keys are asked for.
    """

    haystack: str = "essay"
    key: Callable[[Random], str] = pair
    value: Callable[[Random], str] = number
    kind: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


NIAH = {
    "niah_single_1": Variant("noise"),
    "niah_single_2": Variant(),
    "niah_single_3": Variant(value=uuid, kind="uuids"),
    "niah_multikey_1": Variant(keys=4),
    "niah_multikey_2": Variant("needle"),
    "niah_multikey_3": Variant("needle", uuid, uuid, "uuids"),
    "niah_multivalue": Variant(values=4),
    "niah_multiquery": Variant(keys=4, queries=4),
}


def niah(variant: Variant, rng: Random, essay: Sequence[str]) -> Build:
    """Draws a needle example; its size is in words of essay or needles, or sentences of noise.

    Args:
        variant: which needle task.
        rng: the example's own.
        essay: words of the essays.
    """
    drawn: set[str] = set()
    keys = [new(variant.key, rng, drawn) for _ in range(variant.keys)]
    values = [[new(variant.value, rng, drawn) for _ in range(variant.values)] for _ in keys]
    needles = [
        NEEDLE.format(kind=variant.kind, key=key, value=value)
        for key, own in zip(keys, values, strict=True)
        for value in own
    ]
    rng.shuffle(needles)
    asked = rng.sample(range(len(keys)), variant.queries)
    queries = [keys[index] for index in asked]
    query = ", ".join(queries[:-1]) + ", and " + queries[-1] if queries[1:] else queries[0]
    answers = tuple(value for index in asked for value in values[index])
    form, kind, seed = template("niah"), variant.kind, rng.random()
    if len(answers) == 1:  # RULER's way from plural to singular
        text = form.text.replace("Some", "A").replace("are all", "is").replace("are", "is")
        form = Template(text, form.answer_prefix.removesuffix("are") + "is")
        kind = kind[:-1]
    others: list[str] = []

    def build(size: int) -> Text:
        where = Random(seed)
        if variant.haystack == "needle":
            while len(others) < size:
                key = new(variant.key, rng, drawn)
                line = NEEDLE.format(kind=variant.kind, key=key, value=variant.value(rng))
                others.extend(f"{line}\n".replace(" ", " \0").replace("-", "-\0").split("\0"))
            units = "".join(others[:size]).rstrip("\n").split("\n")
        else:
            units = noise(size) if variant.haystack == "noise" else sentences(take(essay, size))
        glue = " " if variant.haystack == "essay" else "\n"
        put = places(len(units), len(needles), where, even=variant.haystack == "essay")
        context = glue.join(merged(units, needles, put))
        depths = [round(place / len(units), 4) for place in put]
        filled = form.fill(context, type_needle_v=kind, query=query)
        return Text(*filled, answers, {"depths": depths})

    return build


def variables(rng: Random, size_of_example: int) -> Build:
    """Draws a chain of five variables; its size is in sentences of noise.

    Args:
        rng: the example's own.
        size_of_example: size of the worked example in front.
    """
    first = _Chain(rng, 3)
    solved, _, prefix = first(size_of_example)
    worked = f"{solved} {prefix} {' '.join(first.names)}\n\n"
    chain = _Chain(rng, 5)

    def build(size: int) -> Text:
        prompt, question, prefix = chain(size)
        return Text(worked + prompt, question, prefix, chain.names, {"worked": len(worked)})

    return build


def worked_variables(rng: Random) -> Build:
    """Draws the worked example of `variables` alone, to find its size."""
    chain = _Chain(rng, 3)

    def build(size: int) -> Text:
        prompt, question, prefix = chain(size)
        return Text(prompt, question, f"{prefix} {' '.join(chain.names)}", chain.names)

    return build


class _Chain:
    """A chain of variables hidden in noise.

    Args:
        rng: draws it.
        letters: how many each name has.
        hops: how often the value is handed on.
    """

    def __init__(self, rng: Random, letters: int, hops: int = 4) -> None:
        drawn: set[str] = set()

        def name(rng: Random) -> str:
            return "".join(rng.choices(ascii_uppercase, k=letters))

        self.names = tuple(new(name, rng, drawn) for _ in range(hops + 1))
        self.value = str(rng.randrange(10_000, 100_000))
        links = [f"VAR {b} = VAR {a}" for a, b in pairwise(self.names)]
        self.statements = [f"VAR {self.names[0]} = {self.value}", *links]
        self.seed = rng.random()

    def __call__(self, size: int) -> tuple[str, str, str]:
        lines = noise(size)
        put = places(len(lines), len(self.statements), Random(self.seed), even=False)
        context = "\n".join(merged(lines, self.statements, put))
        return template("vt").fill(context, query=self.value, num_v=len(self.names))


def common_words(rng: Random, length: int) -> Build:
    """Draws ten common words; its size is the number of the others.

    Args:
        rng: the example's own.
        length: tokens of prompt and answer: below `SHORT` words are repeated less often.
    """
    often, seldom, example = (6, 1, (20, 3, 1)) if length < SHORT else (30, 3, (40, 10, 3))
    form = template("cwe")
    count, more, less = example
    words = rng.sample(all_words(), count)
    solved = numbered(shuffled(words[:10] * more + words[10:] * less, rng))
    worked = f"{form.fill(solved)[0]} {form.answer_prefix} {numbered(words[:10])}\n"
    chosen = rng.sample(all_words(), len(all_words()))
    common, seed = chosen[:10], rng.random()
    drawn = set(chosen)

    def build(size: int) -> Text:
        while len(chosen) < size + 10:  # more than there are words: pairs of them
            chosen.append(new(pair, rng, drawn))
        listed = shuffled(common * often + chosen[10 : size + 10] * seldom, Random(seed))
        prompt, question, prefix = form.fill(numbered(listed))
        return Text(worked + prompt, question, prefix, tuple(common), {"words": len(listed)})

    return build


def frequent_words(rng: Random, length: int) -> Build:
    """Draws a vocabulary of made-up words; its size is N of floor(N / (zeta(2) rank^2)).

    Args:
        rng: the example's own.
        length: tokens of prompt and answer, which the vocabulary's size follows from.
    """
    drawn: set[str] = set()
    count = max((length - 50) // 50, 4)
    words = ["...", *(new(lambda rng: letters(rng, 6), rng, drawn) for _ in range(count - 1))]
    seed = rng.random()

    def build(size: int) -> Text:
        counts = [int(size * 6 / (pi * rank) ** 2) for rank in range(1, len(words) + 1)]
        coded = [word for word, often in zip(words, counts, strict=True) for _ in range(often)]
        context = " ".join(shuffled(coded, Random(seed)))
        return Text(*template("fwe").fill(context), tuple(words[1:4]), {"counts": counts[:4]})

    return build


def documents(
    question: str, answers: tuple[str, ...], own: Sequence[str], others: Iterable[str], rng: Random
) -> Build:
    """Draws a question about documents; its size is how many there are, its own among them.

    Args:
        question: what is asked.
        answers: any of them is right.
        own: documents that must be there.
        others: those that fill up, in this order, again from the beginning if they run out.
        rng: the example's own.
    """
    seed, rest = rng.random(), list(others)

    def build(size: int) -> Text:
        count = max(size - len(own), 0)
        fill = [rest[index % len(rest)] for index in range(count)] if rest else []
        texts = enumerate(shuffled([*own, *fill], Random(seed)), 1)
        context = "\n\n".join(f"Document {place}:\n{text}" for place, text in texts)
        filled = template("qa").fill(context, query=question)
        return Text(*filled, answers, {"documents": len(own) + count})

    return build
