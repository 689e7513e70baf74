"""LooGLE: HeadKV's QA-F1 and the benchmark's own scores (arXiv 2311.04939)."""

import ast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from headkv.errors import UserError, choose
from headkv.metrics.rouge import rouge_l, rouge_n
from headkv.metrics.text import qa_f1

_MAIN = {
    # The columns of HeadKV's table: kinds of questions of longdep_qa.
    "comprehension_and_reasoning": "qa_f1",
    "multiple_information_retrieval": "qa_f1",
    "timeline_reorder": "qa_f1",
    "computation": "qa_f1",
    # LooGLE's own tasks.
    "longdep_qa": "qa_f1",
    "shortdep_qa": "qa_f1",
    "longdep_summarization": "rouge_l_recall",
    "shortdep_cloze": "exact_match",
}
_BLEU4 = {"paper": (0, 0, 0, 1), "corrected": (0.25, 0.25, 0.25, 0.25)}


class Cloze(NamedTuple):
    """A cloze answer: of `blanks` blanks, how many are filled in right, wholly or in part."""

    exact: int
    partial: int
    blanks: int


def main_metric(task: str) -> str:
    """Returns the name of the score that stands for a task.

    It is QA-F1 where HeadKV or nobody says otherwise.

    Args:
        task: one of LooGLE's, or a kind of question of `longdep_qa`.

    Raises:
        UserError: LooGLE has no such task.
    """
    return _MAIN[choose("task", task, sorted(_MAIN))]


def score(
    task: str,
    prediction: str,
    answers: Sequence[str],
    protocol: str = "corrected",
    *,
    with_bert: bool = False,
) -> dict[str, float]:
    """Computes all scores of one answer, each the best over the reference answers, 0 to 100.

    Args:
        task: one of LooGLE's, or a kind of question of `longdep_qa`.
        prediction: the model's answer.
        answers: reference answers; for `shortdep_cloze` the text of a dictionary, blank to words.
        protocol: `paper` or `corrected`; docs/parity.md says where they differ.
        with_bert: BERTScore too; needs the package `bert-score` and loads its model.

    Returns:
        For `shortdep_cloze` exact_match and partial_match, shares of this row's blanks; LooGLE
        averages over blanks, not rows: weight a row by its `cloze(...).blanks`. Otherwise qa_f1,
        LooGLE's bleu1, bleu4, rouge_1_recall, rouge_2_recall, rouge_l_recall, meteor_exact_stem
        and, where WordNet is installed for nltk, meteor.

    Raises:
        UserError: no such task or protocol, or `bert-score` is not installed.
    """
    main = main_metric(task)
    choose("protocol", protocol, ["corrected", "paper"])
    if main == "exact_match":
        rows = [_cloze_shares(cloze(prediction, answer)) for answer in answers]
    else:
        rows = [similarity(prediction, answer, protocol) for answer in answers]
        if with_bert:
            for row, answer in zip(rows, answers, strict=True):
                row["bert_score"] = bert_score(prediction, answer, protocol)
    return {name: 100 * max(row[name] for row in rows) for name in rows[0]} if rows else {main: 0.0}


def similarity(prediction: str, answer: str, protocol: str = "corrected") -> dict[str, float]:
    """Computes LooGLE's scores of free text, 0 to 1, and QA-F1; see `score` for the names.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        protocol: `paper` scores an empty answer as the word `None`, for all but QA-F1.
    """
    given = prediction or ("None" if protocol == "paper" else "")
    scores = {
        "qa_f1": qa_f1(prediction, answer),
        "bleu1": bleu(given, answer, (1, 0, 0, 0)),
        "bleu4": bleu(given, answer, _BLEU4[protocol]),
        "rouge_1_recall": rouge_n(given, answer, 1).recall,
        "rouge_2_recall": rouge_n(given, answer, 2).recall,
        "rouge_l_recall": rouge_l(given, answer).recall,
        "meteor_exact_stem": meteor(given, answer, _NoSynonyms(), protocol),
    }
    if wordnet := _wordnet():
        scores["meteor"] = meteor(given, answer, wordnet, protocol)
    return scores


def bleu(prediction: str, answer: str, weights: Sequence[float]) -> float:
    """Computes nltk's sentence BLEU over words at blanks, from 0 to 1 and not smoothed.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        weights: of the precisions of 1- to 4-grams. LooGLE's BLEU-4 is the 4-grams' alone
            (`paper`); BLEU-4 is the geometric mean of all four (`corrected`).
    """
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no n-gram in common: the score is 0, and that is all
        return float(sentence_bleu([answer.split()], prediction.split(), weights=weights))


def meteor(prediction: str, answer: str, wordnet: Any, protocol: str = "corrected") -> float:
    """Computes nltk's METEOR over words at blanks: matches by word, by stem, and by synonym.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        wordnet: nltk's reader, or anything with its `synsets(word)`.
        protocol: `paper` counts each distinct word once, as LooGLE does. It hands over sets, whose
            order, on which METEOR depends, changes from run to run; here it is the text's.
    """
    from nltk.translate.meteor_score import single_meteor_score

    given, wanted = prediction.split(), answer.split()
    if protocol == "paper":
        given, wanted = list(dict.fromkeys(given)), list(dict.fromkeys(wanted))
    if not given:
        return 0.0
    return float(single_meteor_score(wanted, given, stemmer=_stemmer(), wordnet=wordnet))


def bert_score(prediction: str, answer: str, protocol: str = "corrected") -> float:
    """Computes BERTScore's recall: how much of the answer the prediction has.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        protocol: `paper` hands over the two texts in the wrong order, as LooGLE does: what comes
            out is the precision.

    Raises:
        UserError: the package is not installed.
    """
    texts = [prediction], [answer]
    given, wanted = texts if protocol == "corrected" else texts[::-1]
    _precision, recall, _f = _bert_scorer().score(given, wanted)
    return float(recall[0])


def cloze(prediction: str, answer: str | Mapping[str, str]) -> Cloze:
    """Counts the blanks that a predicted dictionary fills as the answer does.

    Exact: the same text. Partial: a word in common. Both texts are read as Python literals, never
    run as code; a prediction that is no dictionary fills nothing.

    Args:
        prediction: the text of a dictionary, if the model wrote one.
        answer: a dictionary from blank (`<mask-0>`) to words, or its text.
    """
    wanted, given = _dictionary(answer), _dictionary(prediction)
    shared = [blank for blank in wanted if blank in given]
    return Cloze(
        exact=sum(given[blank] == wanted[blank] for blank in shared),
        partial=sum(
            bool(set(str(given[blank]).split()) & set(str(wanted[blank]).split()))
            for blank in shared
        ),
        blanks=len(wanted),
    )


def _cloze_shares(found: Cloze) -> dict[str, float]:
    blanks = max(1, found.blanks)
    return {"exact_match": found.exact / blanks, "partial_match": found.partial / blanks}


def _dictionary(text: str | Mapping[str, str]) -> Mapping[Any, Any]:
    if isinstance(text, Mapping):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's backslashes
            literal = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}
    return literal if isinstance(literal, dict) else {}


@cache
def _stemmer() -> Any:
    """nltk's own for METEOR, which sees each word once: it is slow."""
    from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()
    stemmer.stem = lru_cache(2**16)(stemmer.stem)
    return stemmer


class _NoSynonyms:
    """A WordNet without words: METEOR's matches by word and by stem remain."""

    def synsets(self, word: str) -> Iterable[Any]:
        return ()


@cache
def _wordnet() -> Any:
    """nltk's WordNet reader, or None if its data are not there (`nltk.downloader wordnet`)."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


@cache
def _bert_scorer() -> Any:
    try:
        from bert_score import BERTScorer
    except ImportError as missing:
        raise UserError(
            "BERTScore needs a package that is not installed",
            allowed="bert-score",
            do="pip install bert-score, or leave BERTScore out",
        ) from missing
    return BERTScorer(lang="en")
