"""Our ROUGE against the package it stands for, and where that package gives up."""

import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge import Rouge as Package

from headkv.metrics.rouge import RECURSION, rouge_l, rouge_n

TEXTS = st.lists(
    st.sampled_from(["a", "b", "A", "c,", "d.", ".", " ", "\n", "e. ", "f.g", ". ."]), max_size=25
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS | st.text(max_size=30), TEXTS | st.text(max_size=30))
@example("b a", "a b. a")  # of two common words, which one: a tie
@example("b a", "a b. b")
@example(" ", ".\n.")
def test_equal_to_the_package(prediction: str, answer: str) -> None:
    """Precision, recall and F of ROUGE-1, 2 and L, to the last digit; zeros where it raises."""
    try:
        theirs = Package().get_scores(prediction, answer)[0]
    except ValueError:
        assert not prediction.strip(".") or not answer.strip(".")
        theirs = {name: {"p": 0, "r": 0, "f": 0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    ours = {
        "rouge-1": rouge_n(prediction, answer, 1),
        "rouge-2": rouge_n(prediction, answer, 2),
        "rouge-l": rouge_l(prediction, answer),
    }
    assert {k: {"p": v.precision, "r": v.recall, "f": v.f} for k, v in ours.items()} == theirs
    assert rouge_l(prediction, answer, "paper") == ours["rouge-l"]


def test_paper_gives_up_where_the_script_does() -> None:
    """A fresh interpreter calls the package as LongBench does, three frames down."""
    script = f"""
from rouge import Rouge
def metric(prediction, answer):
    try:
        return Rouge().get_scores([prediction], [answer], avg=True)["rouge-l"]["f"]
    except RecursionError:
        return 0.0
def scorer():
    print(metric("w0", words({RECURSION} - 1)), metric("w0", words({RECURSION})))
def words(count):
    return " ".join(f"w{{i}}" for i in range(count))
scorer()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    texts = [" ".join(f"w{i}" for i in range(RECURSION + more)) for more in (-1, 0)]
    ours = [rouge_l("w0", text, "paper").f for text in texts]
    assert ours == [float(each) for each in run.stdout.split()]
    assert ours[0] > 0 and ours[1] == 0
    assert rouge_l("w0", texts[1]).recall == 1 / RECURSION


def test_long_texts_take_seconds_not_minutes() -> None:
    """2,000 words without a full stop on both sides: far beyond an answer of 512 tokens."""
    text = " ".join(f"w{i}" for i in range(2000))
    start = time.perf_counter()
    assert rouge_l(text, text).recall == 1
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("blank", ["", ".", "....", "\n"])
def test_nothing_in_common_with_nothing(blank: str) -> None:
    assert rouge_l(blank, "a b.").f == rouge_l("a b.", blank).f == rouge_n(blank, "a", 1).f == 0
