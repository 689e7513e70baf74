"""Metrics against values worked out by hand, and against what must hold for any text."""

import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headkv.metrics import best_over, contains, normalise_answer, qa_f1, rouge1

WORDS = st.lists(st.sampled_from(["code", "bay", "red", "48213", "fox"]), min_size=1).map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("48213", ["48213"], 1.0),
        ("The code is 48213.", ["48213"], 1.0),
        ("code:48213!", ["48213"], 1.0),
        ("148213", ["48213"], 0.0),
        ("482130", ["48213"], 0.0),
        ("4821", ["48213"], 0.0),
        ("48,213", ["48213"], 0.0),
        ("148213, no, 48213", ["48213"], 1.0),
        ("48213", ["11111", "48213"], 1.0),
        ("in the  Old\nTown", ["old town"], 1.0),
        ("a.b", ["aXb"], 0.0),
        ("axb", ["a.b"], 0.0),
        ("anything", [""], 0.0),
        ("anything", [], 0.0),
        ("", ["48213"], 0.0),
    ],
)
def test_contains(prediction: str, answers: list[str], expected: float) -> None:
    assert contains(prediction, answers) == expected


@given(st.text(), st.text(min_size=1), st.text())
def test_contains_finds_what_blanks_separate(before: str, answer: str, after: str) -> None:
    assert contains(f"{before} {answer} {after}", [answer]) == float(bool(answer.strip()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, an owl; A dog.", "cat owl dog"),
        ("another theory", "another theory"),
        ("The", ""),
        ("48,213", "48213"),
    ],
)
def test_normalise_answer(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@given(st.text())
def test_normalise_answer_leaves_no_case_no_punctuation_and_single_spaces(text: str) -> None:
    normal = normalise_answer(text)
    assert not set(normal) & set(string.punctuation + string.ascii_uppercase)
    assert normal == " ".join(normal.split())


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat sat", "a cat sat.", 1.0),
        # cat, sat | cat, ran, off: one of two and one of three.
        ("cat sat", "cat ran off", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        # Repeats count once each: two of three and two of two.
        ("red red red", "red red", 0.8),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("the", "an", 0.0),
    ],
)
def test_qa_f1(prediction: str, answer: str, expected: float) -> None:
    assert qa_f1(prediction, answer) == pytest.approx(expected)


@given(WORDS, WORDS)
def test_qa_f1_is_symmetric_bounded_and_one_only_for_the_same_words(a: str, b: str) -> None:
    assert qa_f1(a, b) == pytest.approx(qa_f1(b, a))
    assert 0 <= qa_f1(a, b) <= 1
    assert (qa_f1(a, b) == 1) == (sorted(a.split()) == sorted(b.split()))


def test_rouge1() -> None:
    score = rouge1("the code is 48213 today", "The code was 48213.")
    assert score == pytest.approx((3 / 5, 3 / 4, 2 / 3))
    assert (score.precision, score.recall, score.f) == tuple(score)


def test_rouge1_does_not_stem_and_bears_empty_text() -> None:
    assert rouge1("running", "runs").f == 0
    assert rouge1("", "code") == (0, 0, 0)
    assert rouge1("...", "...") == (0, 0, 0)


@given(WORDS, WORDS)
def test_rouge1_swaps_precision_and_recall_with_its_arguments(a: str, b: str) -> None:
    one, other = rouge1(a, b), rouge1(b, a)
    assert (one.precision, one.recall) == pytest.approx((other.recall, other.precision))


def test_best_over_takes_the_best_answer() -> None:
    assert best_over(qa_f1, "cat sat", ["dog", "cat ran off", "cat"]) == pytest.approx(2 / 3)
    assert best_over(qa_f1, "cat", []) == 0


def test_metrics_do_not_import_torch() -> None:
    code = "import sys, headkv.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
