"""Word lists out of a wheel, and made-up words, for texts that are generated from a seed."""

from functools import cache
from random import Random
from string import ascii_lowercase
from uuid import UUID

from headkv.downloads.wheels import WORDS, fetch_asset


@cache
def word_list(kind: str) -> tuple[str, ...]:
    """Returns the nouns, adjectives or verbs of the wonderwords wheel, in its order, each once.

    Args:
        kind: `noun`, `adjective` or `verb`.

    Raises:
        UserError: the wheel cannot be had.
    """
    text = (fetch_asset(WORDS) / f"{kind}list.txt").read_text(encoding="utf-8")
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


@cache
def all_words() -> tuple[str, ...]:
    """Returns all nouns, adjectives and verbs, sorted, each once."""
    kinds = ("noun", "adjective", "verb")
    return tuple(sorted({word for kind in kinds for word in word_list(kind)}))


def pair(rng: Random) -> str:
    """Draws an adjective and a noun, joined by a hyphen."""
    return f"{rng.choice(word_list('adjective'))}-{rng.choice(word_list('noun'))}"


def number(rng: Random) -> str:
    """Draws a number of seven digits."""
    return str(rng.randrange(10**6, 10**7))


def uuid(rng: Random) -> str:
    """Draws a UUID of version 4."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def letters(rng: Random, count: int) -> str:
    """Draws a word of so many small letters."""
    return "".join(rng.choices(ascii_lowercase, k=count))
