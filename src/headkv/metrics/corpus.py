"""Overlap of named and right entities, as "Beyond RAG" scores its corpus (arXiv 2503.04973)."""

import string
from collections.abc import Sequence

from headkv.metrics.text import words_f1

_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation.replace("_", ""), " "))


def entity_scores(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """Scores which entities an answer names: words in lower case, without punctuation.

    Args:
        prediction: the model's answer.
        answers: the right entities.

    Returns:
        overlap: share of the right entities that are named, word by word in their order; word_f1:
        F1 of the words, which naming everything does not raise.
    """
    given = _words(prediction)
    named = [_stands_in(_words(answer), given) for answer in answers]
    wanted = [word for answer in answers for word in _words(answer)]
    return {"overlap": sum(named) / len(named), "word_f1": words_f1(given, wanted)}


def _words(text: str) -> list[str]:
    return text.lower().translate(_PUNCTUATION).split()


def _stands_in(wanted: list[str], given: list[str]) -> bool:
    width = len(wanted)
    return any(given[at : at + width] == wanted for at in range(len(given) - width + 1))
