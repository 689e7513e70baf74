"""ROUGE in two readings: of the `rouge` package, which benchmarks use, and of `rouge-score`.

LongBench and LooGLE score with the package `rouge`: words are split at blanks and keep their
case and commas, sentences end at full stops, repeated words count once, and ROUGE-L compares every
sentence with every other. Its figures are not `rouge-score`'s: 27.62 against 18.79 on the same
texts. `rouge_n` and `rouge_l` compute what `rouge` 1.0.1 does, to the last digit, with loops in
the place of its recursion: the package fails on long sentences, and how long depends on how deep
in the stack it is called. The tests hold both side by side.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from headkv.metrics.lcs import lcs_length, lcs_table

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

RECURSION = 991
"""Nested calls that `rouge` has room for in LongBench's script, of the 1,000 CPython allows."""


class Rouge(NamedTuple):
    """ROUGE of a prediction: shares of the prediction and of the answer that match."""

    precision: float
    recall: float
    f: float


def rouge1(prediction: str, answer: str, stem: bool = False) -> Rouge:
    """Computes ROUGE-1 of the `rouge-score` package.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        stem: whether words are compared by their stem (Porter).
    """
    score = _scorer("rouge1", stem=stem).score(target=answer, prediction=prediction)["rouge1"]
    return Rouge(score.precision, score.recall, score.fmeasure)


def rouge_n(prediction: str, answer: str, n: int) -> Rouge:
    """Computes ROUGE-N of the `rouge` package.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        n: words of an n-gram.

    Returns:
        Shares from 0 to 1; zeros where the package raises, on texts of nothing but full stops.
    """
    given, wanted = (_ngrams(_words(_sentences(text)), n) for text in (prediction, answer))
    return _shares(len(given & wanted), len(given), len(wanted))


def rouge_l(prediction: str, answer: str, protocol: str = "corrected") -> Rouge:
    """Computes ROUGE-L of the `rouge` package, over whole texts.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        protocol: `paper` gives zeros where a sentence is so long that LongBench's script runs out
            of recursion and scores 0: about a thousand words, those of both sentences less those
            they share. `corrected` computes the score.

    Returns:
        Shares of each text's distinct words that lie on a longest common subsequence of any two
        sentences; zeros if a text is empty or nothing but full stops.
    """
    given, wanted = _sentences(prediction), _sentences(answer)
    found: set[str] = set()
    for sentence in wanted:
        for other in given:
            common, calls = _common_words(sentence, other)
            if protocol == "paper" and calls > RECURSION:
                return Rouge(0.0, 0.0, 0.0)
            found |= common
    return _shares(len(found), len(set(_words(given))), len(set(_words(wanted))))


def rouge_score_columns(prediction: str, answer: str) -> dict[str, float]:
    """Computes ROUGE-L F of the `rouge-score` package, for comparison with figures of others.

    Args:
        prediction: the model's answer.
        answer: the reference answer.

    Returns:
        rouge_score_l: over the whole text. rouge_score_lsum: over its sentences, which here end at
        a full stop and a blank or at a line break. Both again with Porter's stemmer, `_stem`.
    """
    from rouge_score.tokenizers import DefaultTokenizer

    scores = {}
    for suffix, stem in (("", False), ("_stem", True)):
        split = DefaultTokenizer(stem).tokenize
        texts = [text.replace(". ", ".\n") for text in (answer, prediction)]
        whole = [split(text) for text in texts]
        common = lcs_length(whole[0], whole[1])
        scores[f"rouge_score_l{suffix}"] = _f(common, len(whole[1]), len(whole[0]))
        lines = [[split(line) for line in text.split("\n") if line] for text in texts]
        scores[f"rouge_score_lsum{suffix}"] = _lsum(*lines)
    return scores


def _lsum(wanted: list[list[str]], given: list[list[str]]) -> float:
    """Summary-level ROUGE-L F of `rouge-score`: each sentence's union of common subsequences."""
    left = Counter(chain.from_iterable(given))
    total, hits = left.total(), 0
    for sentence in wanted:
        union: set[int] = set()
        for other in given:
            union |= _places(sentence, other)
        for place in sorted(union):
            if left[sentence[place]] > 0:
                left[sentence[place]] -= 1
                hits += 1
    return _f(hits, total, sum(map(len, wanted)))


def _places(wanted: Sequence[str], given: Sequence[str]) -> set[int]:
    """Places in the first of the longest common subsequence that `rouge-score` finds."""
    found: set[int] = set()
    if not set(wanted) & set(given):
        return found
    rows, i, j = lcs_table(wanted, given), len(wanted), len(given)
    while i and j:
        if wanted[i - 1] == given[j - 1]:
            i, j = i - 1, j - 1
            found.add(i)
        elif rows[i][j - 1] > rows[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return found


def _f(common: int, given: int, wanted: int) -> float:
    """F of two shares, in the package's order of operations."""
    if not common:
        return 0.0
    precision, recall = common / given, common / wanted
    return 2 * precision * recall / (precision + recall)


def _sentences(text: str) -> list[list[str]]:
    # A blank sentence counts as one empty word: so does the package.
    return [part.split() or [""] for part in text.split(".") if part]


def _words(sentences: Iterable[Iterable[str]]) -> list[str]:
    return list(chain.from_iterable(sentences))


def _ngrams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _shares(common: int, given: int, wanted: int) -> Rouge:
    precision = common / given if given else 0.0
    recall = common / wanted if wanted else 0.0
    return Rouge(precision, recall, 2.0 * (precision * recall / (precision + recall + 1e-8)))


def _common_words(wanted: Sequence[str], given: Sequence[str]) -> tuple[set[str], int]:
    """Words on the longest common subsequence that `rouge` finds, and its nested calls."""
    if not set(wanted) & set(given):
        return set(), 1 + (len(given) if wanted else 0)
    rows = lcs_table(wanted, given)
    found, calls, i, j = set(), 1, len(wanted), len(given)
    while i and j:
        calls += 1
        if wanted[i - 1] == given[j - 1]:
            i, j = i - 1, j - 1
            found.add(wanted[i])
        elif rows[i - 1][j] > rows[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found, calls


@cache
def _scorer(*kinds: str, stem: bool = False) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), use_stemmer=stem)
