"""Scores of one answer against one reference, as fractions from 0 to 1.

Plain text in, numbers out: no torch, no files, no averaging over examples.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Rouge(NamedTuple):
    """ROUGE of a prediction: shares of the prediction and of the answer that match."""

    precision: float
    recall: float
    f: float


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces (SQuAD, LongBench)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def contains(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if any answer stands in the prediction, else 0.0.

    Case and the width of blanks do not matter, everything else does. An answer that begins or
    ends in a digit must not be part of a longer run of digits: 48213 is not in 148213.
    """
    return float(any(_stands_in(answer, prediction) for answer in answers))


def qa_f1(prediction: str, answer: str) -> float:
    """LongBench's QA-F1: F1 over the words of both texts after `normalise_answer`."""
    given, wanted = normalise_answer(prediction).split(), normalise_answer(answer).split()
    same = (Counter(given) & Counter(wanted)).total()
    return 2 * same / (len(given) + len(wanted)) if same else 0.0


def rouge1(prediction: str, answer: str) -> Rouge:
    """ROUGE-1 of the `rouge-score` package, without stemming."""
    score = _rouge1_scorer().score(target=answer, prediction=prediction)["rouge1"]
    return Rouge(score.precision, score.recall, score.fmeasure)


def best_over(
    metric: Callable[[str, str], float], prediction: str, answers: Iterable[str]
) -> float:
    """The metric's highest value over the reference answers; 0.0 if there are none."""
    return max((metric(prediction, answer) for answer in answers), default=0.0)


@cache
def _rouge1_scorer() -> RougeScorer:
    return RougeScorer(["rouge1"], use_stemmer=False)


def _stands_in(answer: str, prediction: str) -> bool:
    wanted, text = (" ".join(t.casefold().split()) for t in (answer, prediction))
    if not wanted:
        return False
    before = r"(?<!\d)" if wanted[0].isdigit() else ""
    after = r"(?!\d)" if wanted[-1].isdigit() else ""
    return re.search(before + re.escape(wanted) + after, text) is not None
