"""Scores of English answers by their words."""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Returns a text in lower case without ASCII punctuation, articles and double spaces.

    This is SQuAD's normalisation, which LongBench uses.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def contains(prediction: str, answers: Iterable[str]) -> float:
    """Returns 1.0 if any answer stands in the prediction, else 0.0.

    Case and the width of blanks do not matter, everything else does. An answer that begins or
    ends in a digit must not be part of a longer run of digits: 48213 is not in 148213.

    Args:
        prediction: the model's answer.
        answers: reference answers; an empty one stands nowhere.
    """
    return float(any(_stands_in(answer, prediction) for answer in answers))


def qa_f1(prediction: str, answer: str) -> float:
    """Computes LongBench's QA-F1: F1 over the words of both texts after `normalise_answer`.

    Args:
        prediction: the model's answer.
        answer: the reference answer.

    Returns:
        A fraction from 0 to 1.
    """
    return words_f1(normalise_answer(prediction).split(), normalise_answer(answer).split())


def words_f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Computes F1 of two bags of words, each word counted as often as it stands in both.

    Args:
        given: words of the prediction.
        wanted: words of the reference answer.

    Returns:
        A fraction from 0 to 1; 0.0 if no word stands in both.
    """
    same = (Counter(given) & Counter(wanted)).total()
    return 2 * same / (len(given) + len(wanted)) if same else 0.0


def best_over(
    metric: Callable[[str, str], float], prediction: str, answers: Iterable[str]
) -> float:
    """Returns the metric's highest value over the reference answers.

    Args:
        metric: takes the prediction and one answer.
        prediction: the model's answer.
        answers: reference answers; 0.0 is returned if there are none.
    """
    return max((metric(prediction, answer) for answer in answers), default=0.0)


def _stands_in(answer: str, prediction: str) -> bool:
    wanted, text = (" ".join(t.casefold().split()) for t in (answer, prediction))
    if not wanted:
        return False
    before = r"(?<!\d)" if wanted[0].isdigit() else ""
    after = r"(?!\d)" if wanted[-1].isdigit() else ""
    return re.search(before + re.escape(wanted) + after, text) is not None
