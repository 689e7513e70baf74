"""Common subsequences of long texts, against plain loops and the package `rouge-score`."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from headkv.metrics import lcs
from headkv.metrics.rouge import rouge_l, rouge_score_columns

WORDS = st.lists(st.sampled_from("abcd"), max_size=20)
TEXTS = st.lists(
    st.sampled_from(["cats", "cat", "Sat", "on", ". ", "mats", "\n", "!"]), max_size=30
).map(" ".join)


@given(WORDS, WORDS)
def test_arrays_and_bits_equal_plain_loops(a: list[str], b: list[str]) -> None:
    plain = np.array(lcs.lcs_table(a, b))
    assert lcs.lcs_length(a, b) == plain[-1, -1]
    if a and b:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lcs, "_SMALL", 0)
            assert np.array_equal(lcs.lcs_table(a, b), plain)


@given(TEXTS, TEXTS)
def test_columns_equal_the_package(prediction: str, answer: str) -> None:
    texts = [text.replace(". ", ".\n") for text in (answer, prediction)]
    ours = rouge_score_columns(prediction, answer)
    for suffix, stem in (("", False), ("_stem", True)):
        theirs = RougeScorer(["rougeL", "rougeLsum"], use_stemmer=stem).score(*texts)
        assert ours[f"rouge_score_l{suffix}"] == theirs["rougeL"].fmeasure
        assert ours[f"rouge_score_lsum{suffix}"] == theirs["rougeLsum"].fmeasure


def test_a_hostile_answer_takes_bounded_memory() -> None:
    long = " ".join(f"w{i % 997}" for i in range(50_000))
    short = " ".join(f"w{i % 991}" for i in range(300))
    tracemalloc.start()
    rouge_l(long, short)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
