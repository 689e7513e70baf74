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
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from headkv.metrics.lcs import Texts, lcs_length

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
    texts, words = Texts(wanted), [set(sentence) for sentence in wanted]
    known = set().union(*words)
    longest = max(map(len, wanted), default=0)
    found: set[str] = set()
    for other in given:
        shared = known.intersection(other)
        deep = protocol == "paper" and longest + len(other) >= RECURSION
        if shared <= found and not deep:  # nothing of this sentence is new
            continue
        tables = texts.against(other)
        for number, own in enumerate(words):
            if not deep and own & shared <= found:
                continue
            common, calls = tables.leftwards(number)
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
    scores = {}
    texts = [text.replace(". ", ".\n") for text in (answer, prediction)]
    for suffix, stem in (("", False), ("_stem", True)):
        whole = [_split(text, stem) for text in texts]
        common = lcs_length(whole[0], whole[1])
        scores[f"rouge_score_l{suffix}"] = _f(common, len(whole[1]), len(whole[0]))
        scores[f"rouge_score_lsum{suffix}"] = rouge_lsum(texts[1], texts[0], stem)
    return scores


def rouge_lsum(prediction: str, answer: str, stem: bool = False) -> float:
    """Computes ROUGE-Lsum F of the `rouge-score` package: over the lines of both texts.

    Of each of the answer's lines the union of its common subsequences with all predicted lines
    counts; a word no more often than it stands in the prediction.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        stem: whether words are compared by their stem (Porter).
    """
    wanted, given = (
        [_split(line, stem) for line in text.split("\n") if line] for text in (answer, prediction)
    )
    texts, left = Texts(wanted), Counter(chain.from_iterable(given))
    unions: list[set[int]] = [set() for _ in wanted]
    # Word -> lines in which it has a place that is not in their union yet.
    lines: dict[str, set[int]] = {}
    for number, line in enumerate(wanted):
        for word in line:
            lines.setdefault(word, set()).add(number)
    for other in given:
        numbers = set().union(*(lines.get(word, ()) for word in set(other)))
        if not numbers:  # nothing of this line is new
            continue
        tables = texts.against(other)
        for number in numbers:
            union, line = unions[number], wanted[number]
            union |= tables.upwards(number)
            missing = {word for place, word in enumerate(line) if place not in union}
            for word in set(line) - missing:
                lines[word].discard(number)
    total, hits = left.total(), 0
    for line, union in zip(wanted, unions, strict=True):
        for place in sorted(union):
            if left[line[place]] > 0:
                left[line[place]] -= 1
                hits += 1
    return _f(hits, total, sum(map(len, wanted)))


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


def _split(text: str, stem: bool) -> list[str]:
    """Words as `rouge-score` splits them; its stemmer sees each of them once."""
    from rouge_score.tokenize import tokenize

    words = tokenize(text, None)
    if not stem:
        return list(words)
    known = {word: _stem(word) for word in set(words)}
    return [known[word] for word in words]


@lru_cache(2**16)
def _stem(word: str) -> str:
    """A word's stem, as `rouge-score` takes it."""
    return str(_porter().stem(word)) if len(word) > 3 else word


@cache
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


@cache
def _scorer(*kinds: str, stem: bool = False) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), use_stemmer=stem)
