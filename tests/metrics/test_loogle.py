"""LooGLE's and BABILong's scores, against values worked out by hand."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv.errors import UserError
from headkv.metrics import babilong, loogle

SIMILARITY = {
    *("qa_f1", "bleu1", "bleu4", "rouge_1_recall", "rouge_2_recall", "rouge_l_recall"),
    "meteor_exact_stem",
}
CLOZE = "{'<mask-0>': 'Justin Timberlake', '<mask-1>': 'Lu', '<mask-2>': 'Kentwood'}"


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores on machines with WordNet's data and without."""
    monkeypatch.setattr(loogle, "_wordnet", lambda: None)


def test_similarity() -> None:
    """Seven words given, five wanted: a b c d (and e, behind x), all five found."""
    scores = loogle.similarity("a b c d x e y", "a b c d e")
    # "a" is an article to QA-F1: four of six, four of four.
    assert scores["qa_f1"] == pytest.approx(0.8)
    assert scores["bleu1"] == pytest.approx(5 / 7)
    # Precisions 5/7, 3/6, 2/5, 1/4; the prediction is the longer text, so no brevity penalty.
    assert scores["bleu4"] == pytest.approx((5 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    # Of the answer's five words, four pairs and five in order.
    assert scores["rouge_1_recall"] == 1
    assert scores["rouge_2_recall"] == 3 / 4
    assert scores["rouge_l_recall"] == 1
    # P = 5/7, R = 1, F = PR / (0.9 P + 0.1 R), two chunks of five: penalty 0.5 (2/5)^3.
    f = 5 / 7 / (0.9 * 5 / 7 + 0.1)
    assert scores["meteor_exact_stem"] == pytest.approx(f * (1 - 0.5 * (2 / 5) ** 3))
    assert scores.keys() == SIMILARITY


def test_bleu_of_a_short_prediction() -> None:
    """Two of two words, three wanted: exp(1 - 3/2); no 4-gram, no score."""
    scores = loogle.similarity("b c", "b c d")
    assert scores["bleu1"] == pytest.approx(2.718281828 ** (1 - 3 / 2))
    assert scores["bleu4"] == pytest.approx(0, abs=1e-9)


def test_meteor_matches_stems_and_with_wordnet_synonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = loogle.similarity("dogs", "dog")
    assert scores["meteor_exact_stem"] == 0.5  # one chunk of one match: penalty 0.5

    def synsets(word: str) -> list[Any]:
        names = ["auto", "motor_car"] if word == "car" else []
        lemmas = [SimpleNamespace(name=lambda name=name: name) for name in names]
        return [SimpleNamespace(lemmas=lambda: lemmas)]

    monkeypatch.setattr(loogle, "_wordnet", lambda: SimpleNamespace(synsets=synsets))
    scores = loogle.similarity("car", "auto")
    assert (scores["meteor_exact_stem"], scores["meteor"]) == (0, 0.5)
    assert scores.keys() == SIMILARITY | {"meteor"}


def test_wordnet_is_none_without_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    assert loogle._wordnet.__wrapped__() is None


@pytest.mark.parametrize(
    ("prediction", "found"),
    [
        (CLOZE, (3, 3, 3)),
        ("{'<mask-0>': 'Justin Bieber', '<mask-1>': 'Lu'}", (1, 2, 3)),
        (" {'<mask-1>': 'lu', '<mask-7>': 'Kentwood'}", (0, 0, 3)),
        ("{'<mask-0>': 7, '<mask-1>': None, '<mask-2>': ['Kentwood']}", (0, 0, 3)),
        ("The answer is " + CLOZE, (0, 0, 3)),
        ("['Lu']", (0, 0, 3)),
        ("dict([('<mask-1>', 'Lu')])", (0, 0, 3)),
        ("{[]: 1}", (0, 0, 3)),
        ("{'a\\d': 1}\0", (0, 0, 3)),
        ("(" * 5000, (0, 0, 3)),
        ("", (0, 0, 3)),
    ],
)
def test_cloze(prediction: str, found: tuple[int, int, int]) -> None:
    assert loogle.cloze(prediction, CLOZE) == found
    assert loogle.score("shortdep_cloze", prediction, [CLOZE]) == {
        "exact_match": pytest.approx(100 * found[0] / 3),
        "partial_match": pytest.approx(100 * found[1] / 3),
    }


def test_cloze_runs_no_code(tmp_path: Any) -> None:
    target = tmp_path / "made"
    loogle.cloze(f"open({str(target)!r}, 'w')", CLOZE)
    assert not target.exists()


def test_tasks() -> None:
    assert loogle.main_metric("timeline_reorder") == "qa_f1"
    scores = loogle.score("computation", "three men", ["no", "three women", "three"])
    assert scores["qa_f1"] == pytest.approx(200 / 3)
    assert scores.keys() == SIMILARITY
    assert loogle.score("computation", "a", []) == {"qa_f1": 0}
    for task in ("longdep_summarization", "shortdep_qa", "shortdep_cloze"):
        assert loogle.main_metric(task) in loogle.score(task, "{}", ["{'a': 'b'}"])
    with pytest.raises(UserError, match="unknown task 'longdep'"):
        loogle.score("longdep", "a", ["a"])
    with pytest.raises(UserError, match="unknown protocol 'papers'"):
        loogle.score("longdep_qa", "a", ["a"], "papers")


def fake_bert_score() -> Any:
    """A package whose recall is the share of the reference's letters that the candidate has."""

    class BERTScorer:
        def __init__(self, lang: str) -> None:
            assert lang == "en"

        def score(self, given: list[str], wanted: list[str]) -> tuple[list[float], ...]:
            shares = [
                sum(letter in texts[0] for letter in others) / len(others)
                for texts, others in (((wanted[0],), given[0]), ((given[0],), wanted[0]))
            ]
            return [shares[0]], [shares[1]], [0.0]

    module: Any = ModuleType("bert_score")
    module.BERTScorer = BERTScorer
    return module


def test_bert_score_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loogle._bert_scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(UserError, match="pip install bert-score"):
        loogle.score("longdep_qa", "ab", ["abcd"], with_bert=True)
    monkeypatch.setitem(sys.modules, "bert_score", fake_bert_score())
    scores = loogle.score("longdep_qa", "ab", ["abcd"], with_bert=True)
    assert scores["bert_score"] == 50
    paper = loogle.score("longdep_qa", "ab", ["abcd"], "paper", with_bert=True)
    assert paper["bert_score"] == 100
    loogle._bert_scorer.cache_clear()


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["longdep_qa", "shortdep_cloze"]),
    st.text(max_size=60) | st.text("ab .{}':\n", max_size=60),
    st.text(max_size=60) | st.text("ab .{}':\n", max_size=60),
)
def test_any_text_has_a_score(protocol: str, task: str, prediction: str, answer: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loogle, "_wordnet", lambda: None)
        scores = loogle.score(task, prediction, [answer], protocol)
    assert loogle.main_metric(task) in scores
    assert all(0 <= score <= 100.0001 for score in scores.values()), scores


MARY = "Where is Mary? "


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize(
    ("task", "prediction", "target", "question", "right"),
    [
        ("qa1", "Kitchen", "kitchen", MARY, True),
        ("qa1_4k", "Mary is in the kitchen. Or the garden.", "kitchen", MARY, True),
        ("qa1", "the kitchen or the garden", "kitchen", MARY, False),
        ("qa1", "garden", "kitchen", MARY, False),
        ("qa1", "I do not know. The kitchen", "kitchen", MARY, False),
        ("qa1", "", "kitchen", MARY, False),
        ("qa2", "kitchen <example> garden", "kitchen", "Where is the milk?", True),
        ("qa2", "kitchen <CONTEXT> garden", "kitchen", "Where is the milk?", True),
        ("qa3", "Before the garden, the office", "office", "Where before the garden?", True),
        ("qa4", "The garden", "garden", "What is north of the garden?", False),
        ("qa5", "Fred gave Bill the milk", "milk", "What did Fred give to Bill?", True),
        ("qa5", "fred", "Fred", "Who gave the milk to Bill?", True),
        ("qa5", "Fred and Jeff", "Fred", "Who gave the milk to Bill?", False),
        ("qa5", "the kitchen", "Fred", "Who gave the milk to Bill?", False),
        ("qa6", "No, he went north", "no", "Is Mary in the park?", True),
        ("qa6", "He went north", "no", "Is Mary in the park?", False),
        ("qa8", "milk, apple", "apple,milk", "What is Mary carrying?", True),
        ("qa8", "apple", "apple,milk", "What is Mary carrying?", False),
        ("qa10", "maybe yes", "maybe", "Is Mary in the park?", False),
        ("qa14", "Before the school, the park", "park", "Where before the school?", True),
        ("qa19", "n, e", "n,e", "How do you go from the hall to the garden?", True),
        ("qa19", "e,n", "n,e", "How do you go from the hall to the garden?", False),
    ],
)
def test_babilong(
    task: str, prediction: str, target: str, question: str, right: bool, protocol: str
) -> None:
    assert babilong.score(task, prediction, target, question, protocol) == 100 * right


def test_babilong_refuses_what_it_has_no_labels_for() -> None:
    with pytest.raises(UserError, match="unknown task 'qa21'"):
        babilong.score("qa21", "yes", "yes", "Is Mary here?")
    with pytest.raises(UserError, match="unknown protocol"):
        babilong.score("qa1", "kitchen", "kitchen", MARY, "papers")


@given(st.text(), st.text(), st.text())
def test_babilong_bears_any_text(prediction: str, target: str, question: str) -> None:
    assert babilong.score("qa1", prediction, target, question) in (0, 100)
