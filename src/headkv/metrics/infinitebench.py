"""InfiniteBench's scores (arXiv 2402.13718), which SCBench shares (arXiv 2412.10319).

The rules are those of the benchmark's script as it is now: the last lone capital letter of an
answer is its choice; only where there is none, what stands behind words like `answer is`.
"""

import re
import string
from collections.abc import Sequence

from headkv.metrics.rouge import rouge_lsum
from headkv.metrics.text import normalise_answer, words_f1

_WORD_ENDS = str.maketrans(dict.fromkeys("\n:\"'.,?!{}", " "))
_RUN_ENDS = str.maketrans(dict.fromkeys("\n.`'\":", " "))
_BEHIND_CHOICE = ("answer is:", "answer:", "answer is", "option is")
_BEHIND_FUNCTION = ("answer is:", "is:", "answer:", "correct option is:")
# Code points that InfiniteBench drops from Chinese text besides ASCII punctuation.
_MARKS = (
    *(0x3030, 0xFE4F, 0xFF0F),
    *range(0x2013, 0x2015),
    *range(0x2018, 0x201A),
    *range(0x201B, 0x2020),
    *range(0x2026, 0x2028),
    *range(0x3001, 0x3004),
    *range(0x300B, 0x3012),
    *range(0x3014, 0x3020),
    *range(0x303E, 0x3040),
    *range(0xFF01, 0xFF0E),
    *range(0xFF1A, 0xFF21),
    *range(0xFF3B, 0xFF41),
    *range(0xFF5B, 0xFF65),
)
_CHINESE = dict.fromkeys((*_MARKS, *map(ord, string.punctuation)))


def key_value(prediction: str, answer: str) -> float:
    """Returns 1.0 if the value stands in the answer as a word of its own, else 0.0."""
    return float(answer in prediction.translate(_WORD_ENDS).split())


def first_integer(prediction: str, answer: str) -> float:
    """Returns 1.0 if the first run of digits is the wanted one, else 0.0."""
    found = re.search(r"[0-9]+", prediction)
    return float(found is not None and found[0] == answer)


def last_integer(prediction: str, answer: str) -> float:
    """Returns 1.0 if the last word is the wanted integer (what a program returns), else 0.0."""
    words = prediction.translate(_RUN_ENDS).split()
    return float(bool(words) and _integer(words[-1]) == _integer(answer) is not None)


def first_number(prediction: str, answer: str) -> float:
    """Returns 1.0 if the first number has the wanted value, else 0.0; a sign is not looked at."""
    found = re.search(r"\d+\.\d+|\d+", prediction)
    return float(found is not None and float(found[0]) == float(answer))


def leading_integers(prediction: str, answers: Sequence[int]) -> float:
    """Returns the share of the wanted integers that the answer begins with, in order."""
    found = map(_integer, re.findall(r"[0-9]+", prediction))
    count = 0
    for given, wanted in zip(found, answers, strict=False):
        if given != wanted:
            break
        count += 1
    return count / len(answers)


def choice(prediction: str, letter: str) -> float:
    """Returns 1.0 if the answer chooses the right one of A to D, else 0.0."""
    lone = re.findall(r"\b([A-D])\b", prediction)
    if lone:
        return float(lone[-1] == letter)
    text = re.sub(r"[\n\"'.,?!{}]", " ", prediction.strip())
    behind = _behind(text, _BEHIND_CHOICE)
    return float(behind is not None and behind[:1].upper() == letter)


def function_choice(prediction: str, letter: str, function: str) -> float:
    """Returns 1.0 if the answer chooses the right function, by its letter or its name, else 0.0."""
    lone = re.findall(r"\b([A-D])\b", prediction)
    if lone:
        return float(lone[-1] == letter)
    text = " ".join(re.sub(r"[\n`'\"*-]|[Oo]ption", " ", prediction).split())
    if text.startswith(function):
        return 1.0
    behind = _behind(text, _BEHIND_FUNCTION)
    return float(behind is not None and behind.startswith((letter, function)))


def dialogue(prediction: str, names: Sequence[str]) -> float:
    """Returns 1.0 if any of the character's names stands in the answer, else 0.0."""
    return float(any(name.strip().upper() in prediction.upper() for name in names))


def qa_f1(prediction: str, answers: Sequence[str]) -> float:
    """Computes F1 of words after SQuAD's normalisation, the best reference counting."""
    given = normalise_answer(prediction).split()
    return max(words_f1(given, normalise_answer(answer).split()) for answer in answers)


def qa_f1_chinese(prediction: str, answers: Sequence[str]) -> float:
    """Computes F1 of characters without blanks and punctuation, the best reference counting."""

    def characters(text: str) -> list[str]:
        return list("".join(text.lower().translate(_CHINESE).split()))

    given = characters(prediction)
    return max(words_f1(given, characters(answer)) for answer in answers)


def summary(prediction: str, answers: Sequence[str]) -> float:
    """Computes ROUGE-Lsum F1 of `rouge-score` without stemming, the best reference counting."""
    return max(rouge_lsum(prediction, answer) for answer in answers)


def _behind(text: str, prefixes: Sequence[str]) -> str | None:
    """What stands behind the first of these words, in any case."""
    for prefix in prefixes:
        place = text.lower().find(prefix)
        if place >= 0:
            return text[place + len(prefix) :].strip()
    return None


def _integer(text: str) -> int | None:
    """The number that a text is; None if it is none, or one of thousands of digits."""
    try:
        return int(text)
    except ValueError:
        return None
