"""LongBench: which metric each of the 21 tasks has, and its scores (arXiv 2308.14508)."""

from collections.abc import Callable, Sequence

from headkv.errors import UserError, choose
from headkv.metrics.chinese import qa_f1_zh, words
from headkv.metrics.choices import classification, code_similarity, retrieval, share_of_numbers
from headkv.metrics.rouge import rouge_l, rouge_score_columns
from headkv.metrics.text import best_over, qa_f1

_TASKS = {
    "qa_f1": (
        *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"),
        "triviaqa",
    ),
    "qa_f1_zh": ("multifieldqa_zh",),
    "rouge_l": ("gov_report", "qmsum", "multi_news", "samsum"),
    "rouge_l_zh": ("dureader", "vcsum"),
    "classification": ("trec", "lsht"),
    "count": ("passage_count",),
    "retrieval": ("passage_retrieval_en", "passage_retrieval_zh"),
    "code_similarity": ("lcc", "repobench-p"),
}
_MAIN = {task: metric for metric, tasks in _TASKS.items() for task in tasks}
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
"""Tasks of which only the answer's first line counts, after leading line breaks."""


def main_metric(task: str) -> str:
    """Returns the name of a task's official metric.

    Args:
        task: of LongBench, `_e` behind its name or not.

    Raises:
        UserError: LongBench has no such task.
    """
    return _MAIN[choose("task", task.removesuffix("_e"), sorted(_MAIN))]


def score(
    task: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None,
    protocol: str = "corrected",
) -> dict[str, float]:
    """Computes all scores of one answer, each the best over the reference answers, 0 to 100.

    Args:
        task: of LongBench, `_e` behind its name or not.
        prediction: the model's answer.
        answers: reference answers.
        all_classes: the row's own; only trec and lsht have them.
        protocol: `paper` or `corrected`; docs/parity.md says where they differ.

    Returns:
        The official score under the name that `main_metric` gives; ROUGE tasks in English have
        `rouge-score`'s ROUGE-L besides (`rouge_score_columns`).

    Raises:
        UserError: no such task or protocol, a classification without classes, or no texts.
    """
    metric = main_metric(task)
    listed = all(isinstance(each, list | tuple) for each in (answers, all_classes or ()))
    if not listed or not all(isinstance(each, str) for each in (prediction, *answers)):
        raise UserError(
            f"an answer {prediction!r} to be compared with {answers!r}",
            allowed="a text, a list of texts, and a list of labels or None",
            do="give these",
        )
    if task.removesuffix("_e") in FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    function = _function(metric, all_classes, choose("protocol", protocol, ["corrected", "paper"]))
    scores = {metric: 100 * best_over(function, prediction, answers)}
    if metric == "rouge_l":
        each = [rouge_score_columns(prediction, answer) for answer in answers]
        scores |= {name: 100 * max(row[name] for row in each) for name in each[0]} if each else {}
    return scores


def score_longbench(
    task: str,
    prediction: str,
    answers: Sequence[str],
    all_classes: Sequence[str] | None,
    protocol: str = "corrected",
) -> float:
    """Computes the official score of one answer as the official code has it, from 0 to 1.

    Arguments and errors are those of `score`.
    """
    return score(task, prediction, answers, all_classes, protocol)[main_metric(task)] / 100


def _function(
    metric: str, classes: Sequence[str] | None, protocol: str
) -> Callable[[str, str], float]:
    if metric == "classification" and not classes:
        raise UserError(
            "a classification task's row has no all_classes",
            allowed="a list of labels",
            do="use LongBench's own rows of trec and lsht",
        )
    functions: dict[str, Callable[[str, str], float]] = {
        "qa_f1": qa_f1,
        "qa_f1_zh": lambda given, wanted: qa_f1_zh(given, wanted, protocol),
        "rouge_l": lambda given, wanted: rouge_l(given, wanted, protocol).f,
        "rouge_l_zh": lambda given, wanted: (
            rouge_l(" ".join(words(given)), " ".join(words(wanted)), protocol).f
        ),
        "classification": lambda given, wanted: classification(
            given, wanted, classes or (), protocol
        ),
        "count": share_of_numbers,
        "retrieval": retrieval,
        "code_similarity": lambda given, wanted: code_similarity(given, wanted, protocol),
    }
    return functions[metric]
