"""LongBench's scores: cases worked out by hand, and what must hold for any text.

With `LM_EVAL_WHEEL=FILE`, a wheel of lm-eval 0.4.13, its scorers answer the same cases and must
agree with ours on random texts too.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec
from typing import Any
from zipimport import zipimporter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv.errors import UserError
from headkv.metrics import longbench
from headkv.metrics.longbench import score_longbench

WHEEL = os.environ.get("LM_EVAL_WHEEL")
TASKS = {
    "qa_f1": "narrativeqa qasper multifieldqa_en hotpotqa 2wikimqa musique triviaqa",
    "qa_f1_zh": "multifieldqa_zh",
    "rouge_l": "gov_report qmsum multi_news samsum",
    "rouge_l_zh": "dureader vcsum",
    "classification": "trec lsht",
    "count": "passage_count",
    "retrieval": "passage_retrieval_en passage_retrieval_zh",
    "code_similarity": "lcc repobench-p",
}
ALL = [task for tasks in TASKS.values() for task in tasks.split()]
# Theirs, and the protocol that claims what they do.
LM_EVAL = {
    "qa_f1": ("qa_f1_score", "corrected"),
    "qa_f1_zh": ("qa_f1_zh_score", "paper"),
    "rouge_l": ("rouge_score", "corrected"),
    "rouge_l_zh": ("rouge_zh_score", "corrected"),
    "classification": ("classification_score", "paper"),
    "count": ("count_score", "corrected"),
    "retrieval": ("retrieval_score", "corrected"),
    "code_similarity": ("code_sim_score", "corrected"),
}
LABELS = ["number", "Other number", "date", "Other", "Individual"]
Scorer = Callable[[str, str, list[str], "list[str] | None"], float]


def ours(task: str, prediction: str, answers: list[str], classes: list[str] | None) -> float:
    return score_longbench(task, prediction, answers, classes)


@cache
def lm_eval() -> Any:
    """lm-eval's module of LongBench metrics, out of the wheel: nothing else of it is loaded."""
    spec = zipimporter(f"{WHEEL}/lm_eval/tasks/longbench").find_spec("metrics")
    assert spec and spec.loader
    module = module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fuzzywuzzy's, of Levenshtein
        spec.loader.exec_module(module)
    return module


def as_they_take_it(task: str, prediction: str) -> str:
    """They end the generation at the first line break, and strip answers that are not code."""
    if task in longbench.FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    return prediction if longbench.main_metric(task) == "code_similarity" else prediction.strip()


def theirs(task: str, prediction: str, answers: list[str], classes: list[str] | None) -> float:
    name = LM_EVAL[longbench.main_metric(task)][0]
    if task == "passage_retrieval_zh":
        name = "retrieval_zh_score"
    row = {"answers": answers, "all_classes": classes}
    return getattr(lm_eval(), f"get_{name}")(row, [as_they_take_it(task, prediction)])[name]


@pytest.mark.parametrize("scorer", [ours, *([theirs] if WHEEL else [])])
@pytest.mark.parametrize(
    ("task", "prediction", "answers", "expected"),
    [
        # Two of two words given, two of three wanted; the best answer counts.
        ("qasper", "The cat sat.", ["dog", "cat sat down"], 0.8),
        ("triviaqa", "\n\nred\nblue green", ["red"], 1.0),
        ("hotpotqa", "red\nblue", ["red"], 2 / 3),
        # 北京 | 清华大学 against 清华大学 | 在 | 北京: two of two, two of three.
        ("multifieldqa_zh", "北京清华大学。", ["清华大学在北京"], 0.8),
        ("multifieldqa_zh", "ABC\uff01", ["abc"], 1.0),
        # Sentences {a b c}, {d}; against {a x c}: a, c of four given and three wanted.
        ("gov_report", "a b c. d", ["a x c."], 4 / 7),
        # Each distinct word counts once: one of one, one of two.
        ("qmsum", "go go go", ["go on"], 2 / 3),
        ("multi_news", "Go", ["go"], 0.0),
        ("multi_news", "...", ["go"], 0.0),
        ("multi_news", "", ["go"], 0.0),
        ("multi_news", "go", ["..."], 0.0),
        ("samsum", "\nI go.\nYou stay.", ["I go."], 1.0),
        ("samsum", "I go\nYou stay", ["You stay"], 0.0),
        # 我 | 爱 | 北京 against 我 | 去 | 北京: two of three.
        ("vcsum", "我爱北京", ["我去北京"], 2 / 3),
        ("trec", "Other number", ["Other number"], 1.0),
        ("trec", "date of Individual", ["date"], 1 / 2),
        ("trec", "Individual\ndate", ["date"], 0.0),
        ("lsht", "\ndate\nIndividual", ["date"], 1.0),
        ("lsht", "none of them", ["date"], 0.0),
        ("passage_count", "5 or 15, no, 5", ["5"], 2 / 3),
        ("passage_count", "five", ["5"], 0.0),
        ("passage_retrieval_en", "Paragraph 12, not 1", ["Paragraph 12"], 1 / 2),
        ("passage_retrieval_zh", "段落3", ["段落3"], 1.0),
        ("passage_retrieval_zh", "段落13", ["段落3"], 0.0),
        ("lcc", "\n```python\n# why\n  x = 1\ny = 2", ["  x = 1"], 1.0),
        ("lcc", "# nothing", ["x"], 0.0),
        # Longest block first, as difflib does: abc of five and four letters, then nothing.
        ("repobench-p", "abcde", ["abcx"], 0.67),
        # difflib finds one block of two (bx); Levenshtein would find three letters in order.
        ("lcc", "babcxx", ["bxbxca"], 0.33),
    ],
)
def test_worked_out_by_hand(
    scorer: Scorer, task: str, prediction: str, answers: list[str], expected: float
) -> None:
    classes = LABELS if task in ("trec", "lsht") else None
    assert scorer(task, prediction, answers, classes) == pytest.approx(expected, abs=1e-7)


# No blank line, no title mark, no label that is part of another: where the protocols agree.
WORDS = [
    *("the", "Red", "fox", "5", "12.", "\ny = 2", "# a", "date"),
    *("北京", "清华大学", "。", "\uff0c", "3.5"),
]
# What they disagree on: lm-eval goes with the protocol that LM_EVAL says.
QUIRKS = ["《", "\uff0e", "\n", "number", "Other number", "Other", "er"]
REFERENCES = ["paper", *(["lm_eval"] if WHEEL else [])]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("task", ALL)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equal_on_random_texts(task: str, reference: str, data: st.DataObject) -> None:
    """`corrected` to `paper` where no row of docs/parity.md says otherwise; ours to lm-eval's."""
    metric = longbench.main_metric(task)
    words = WORDS + QUIRKS * (reference == "lm_eval")
    texts = st.lists(st.sampled_from(words), max_size=12).map(" ".join)
    prediction, answer = data.draw(texts, "prediction"), data.draw(texts, "answer")
    if metric == "retrieval":
        answer = data.draw(st.sampled_from(["段落12", "段落5"]), "answer")
        answer = answer if "zh" in task else answer.replace("段落", "Paragraph ")
    classes = None
    if metric == "classification":
        classes = ["Red", "date", "fox", *(QUIRKS[3:] if reference == "lm_eval" else [])]
        answer = data.draw(st.sampled_from(classes), "answer")
    protocol = "corrected"
    if reference == "lm_eval":
        protocol, prediction = LM_EVAL[metric][1], as_they_take_it(task, prediction)
    found = score_longbench(task, prediction, [answer], classes, protocol)
    if reference == "paper":
        wanted = score_longbench(task, prediction, [answer], classes, "paper")
    else:
        wanted = theirs(task, prediction, [answer], classes)
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.text(), st.lists(st.text(), max_size=2), st.lists(st.text()))
def test_any_text_has_a_score(
    protocol: str, task: str, prediction: str, answers: list[str], classes: list[str]
) -> None:
    scores = longbench.score(task, prediction, answers, ["label", *classes], protocol)
    assert longbench.main_metric(task) in scores
    assert all(0 <= score <= 100 for score in scores.values())


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize("task", ALL)
def test_the_answer_itself_is_right(task: str, protocol: str) -> None:
    answer = {"classification": "date", "count": "7", "retrieval": "Paragraph 7 段落7"}.get(
        longbench.main_metric(task), "Nothing new 北京 in return x + 1"
    )
    classes = LABELS if longbench.main_metric(task) == "classification" else None
    scores = longbench.score(task, answer, ["no", answer], classes, protocol)
    assert scores[longbench.main_metric(task)] == pytest.approx(100)


def test_main_metrics() -> None:
    assert {task: longbench.main_metric(task) for task in ALL} == {
        task: metric for metric, tasks in TASKS.items() for task in tasks.split()
    }
    assert len(ALL) == 21
    assert longbench.main_metric("qasper_e") == "qa_f1"


def test_rouge_tasks_have_rouge_score_beside() -> None:
    """rouge-score: a | b | c and d against a | d: whole text 1 of 4; by sentence 2 of 4 and 2."""
    scores = longbench.score("samsum", "a b c. d", ["d. a", "zz"], None)
    assert scores == {
        "rouge_l": pytest.approx(200 / 3, abs=1e-4),
        "rouge_score_l": pytest.approx(100 / 3),
        "rouge_score_l_stem": pytest.approx(100 / 3),
        "rouge_score_lsum": pytest.approx(200 / 3),
        "rouge_score_lsum_stem": pytest.approx(200 / 3),
    }
    stems = longbench.score("samsum", "running foxes", ["runs fox"], None)
    assert (stems["rouge_score_l"], stems["rouge_score_l_stem"]) == (0, 100)
    assert longbench.score("samsum", "a", [], None) == {"rouge_l": 0}


def test_unusable_requests() -> None:
    with pytest.raises(UserError, match="unknown task 'quality'"):
        longbench.score("quality", "a", ["a"], None)
    with pytest.raises(UserError, match="unknown protocol 'papers'"):
        longbench.score("qasper", "a", ["a"], None, "papers")
    with pytest.raises(UserError, match="all_classes"):
        longbench.score("trec", "a", ["a"], None)
