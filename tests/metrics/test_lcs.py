"""Common subsequences of long texts, against plain loops and the package `rouge-score`."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from headkv.metrics.lcs import Texts, lcs_length
from headkv.metrics.rouge import rouge_l, rouge_score_columns

WORDS = st.lists(st.sampled_from("abcd"), max_size=20)
TEXTS = st.lists(
    st.sampled_from(["cats", "cat", "Sat", "on", ". ", "mats", "\n", "!"]), max_size=30
).map(" ".join)


def plain(a: list[str], b: list[str]) -> tuple[int, set[int], set[str], int]:
    """The length, and the walks of `rouge-score` and `rouge`, through a table of numbers."""
    rows = [[0] * (len(b) + 1)]
    for word in a:
        above, row = rows[-1], [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        rows.append(row)
    places, i, j = set(), len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif rows[i][j - 1] > rows[i - 1][j]:
            j -= 1
        else:
            i -= 1
    words, calls, i, j = set(), 1, len(a), len(b)
    while i and j:
        calls += 1
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            words.add(a[i])
        elif rows[i - 1][j] > rows[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return rows[-1][-1], places, words, calls


@settings(max_examples=500)
@given(st.lists(WORDS, min_size=1, max_size=4), WORDS)
def test_bits_of_several_texts_at_once_equal_plain_loops(
    texts: list[list[str]], other: list[str]
) -> None:
    tables = Texts(texts).against(other)
    for number, text in enumerate(texts):
        length, places, words, calls = plain(text, other)
        assert lcs_length(text, other) == length
        assert tables.upwards(number) == places
        assert tables.leftwards(number) == (words, calls)


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
    assert peak < 60e6
