"""Section Metrics of docs/parity.md: the protocols differ there, each row shown by a test."""

import ast
import difflib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headkv.metrics import babilong, loogle
from headkv.metrics.chinese import normalise_chinese, qa_f1_zh, words
from headkv.metrics.choices import classification, code_similarity, retrieval
from headkv.metrics.longbench import score_longbench

PARITY = Path(__file__).parents[2] / "docs" / "parity.md"
HERE = "metrics/test_parity.py::"
PROOFS = {
    "labels that are part of the right one (trec, lsht)": HERE + "test_labels_within_the_right_one",
    "ROUGE-L of a sentence of about 1,000 words and more (LongBench; Chinese text has no full "
    "stop, so it is one sentence)": HERE + "test_rouge_l_of_a_long_sentence",
    "the line that code similarity looks at": HERE + "test_line_of_code",
    "Chinese title marks and fullwidth full stops (zh QA-F1)": HERE + "test_title_marks",
    "BLEU-4 (LooGLE)": HERE + "test_bleu_4",
    "METEOR's words (LooGLE)": HERE + "test_words_of_meteor",
    "BERTScore (LooGLE)": "metrics/test_loogle.py::test_bert_score_is_asked_for",
    "empty answer (LooGLE)": HERE + "test_empty_answer",
    "a next question behind the answer (BABILong)": HERE + "test_next_question",
    "the `rouge` package": "metrics/test_rouge.py::test_equal_to_the_package",
    "`fuzzywuzzy.fuzz.ratio`": HERE + "test_code_similarity_is_fuzzywuzzys_with_difflib",
    "`all_classes`": HERE + "test_classes_are_the_callers",
    "a reference that names no paragraph (retrieval)": HERE + "test_reference_without_a_paragraph",
    "text of nothing but full stops (LooGLE's ROUGE)": (
        "metrics/test_rouge.py::test_equal_to_the_package"
    ),
    "cloze answers (LooGLE)": "metrics/test_loogle.py::test_cloze",
    "METEOR without WordNet's data (LooGLE)": (
        "metrics/test_loogle.py::test_meteor_matches_stems_and_with_wordnet_synonyms"
    ),
}


def test_every_decision_on_metrics_is_proven() -> None:
    """As test_proofs.py does for the rest of the file."""
    section = PARITY.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \d{4}-\d\d-\d\d \| (.+?) \|", section, re.MULTILINE)
    assert rows == list(PROOFS)
    for proof in PROOFS.values():
        file, _, name = proof.partition("::")
        tree = ast.parse((Path(__file__).parents[1] / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, proof


def test_labels_within_the_right_one() -> None:
    """Named: `er`, `num`, `Other number`. Removing the first hides the second from the loop."""
    classes = ["er", "num", "Other number", "date"]
    assert classification("Other number", "Other number", classes, "paper") == 1 / 2
    assert classification("Other number", "Other number", classes) == 1
    assert classification("Other number or date", "Other number", classes) == 1 / 2
    assert classification("num", "Other number", classes) == 0


@pytest.mark.parametrize("task", ["gov_report", "vcsum"])
def test_rouge_l_of_a_long_sentence(task: str) -> None:
    """Apart in 500 + 500 words: 1,001 calls. With a full stop in the middle: nothing to mend."""
    one, other = (" ".join(f"{letter}{i}" for i in range(500)) for letter in "ab")
    texts = f"same {one}", f"same {other}"
    assert score_longbench(task, texts[0], [texts[1]], None, "paper") == 0
    assert score_longbench(task, texts[0], [texts[1]], None) == pytest.approx(1 / 501, abs=1e-4)
    halves = [text.replace(f"{text[5]}250", f"{text[5]}250.") for text in texts]
    paper, corrected = (
        score_longbench(task, halves[0], [halves[1]], None, protocol)
        for protocol in ("paper", "corrected")
    )
    assert paper == corrected > 0


def test_line_of_code() -> None:
    prediction, answer = "\n  \n# why\nx = 1\ny", "x = 1"
    assert (
        code_similarity(prediction, answer, "paper") == 0.57
    )  # two blanks of two, two of five: 4 / 7
    assert code_similarity(prediction, answer) == 1


def test_title_marks() -> None:
    """红楼梦 is one word; the opening mark makes a second."""
    assert qa_f1_zh("《红楼梦》", "红楼梦", "paper") == pytest.approx(2 / 3)
    assert qa_f1_zh("《红楼梦》", "红楼梦") == 1
    assert normalise_chinese("〈甲〉《乙》\uff0e", "paper") == "〈甲〉《乙\uff0e"
    assert normalise_chinese("〈甲〉《乙》\uff0e") == "甲乙"
    for protocol in ("paper", "corrected"):
        assert normalise_chinese("A，b。 C\uff01「丁」—“戊”·", protocol) == "abc丁戊·"  # noqa: RUF001


def test_bleu_4() -> None:
    """One 4-gram of two; four words of five, three pairs of four, two triples of three."""
    scores = {
        protocol: loogle.similarity("a b c d x", "a b c d y", protocol)["bleu4"]
        for protocol in ("paper", "corrected")
    }
    assert scores["paper"] == pytest.approx(1 / 2)
    assert scores["corrected"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_words_of_meteor() -> None:
    """`go go go` against `go`: one of one, or one of three."""
    f = 1 / 3 / (0.9 / 3 + 0.1)
    scores = {
        protocol: loogle.similarity("go go go", "go", protocol)["meteor_exact_stem"]
        for protocol in ("paper", "corrected")
    }
    assert scores == {"paper": 0.5, "corrected": pytest.approx(0.5 * f)}


def test_empty_answer() -> None:
    paper, corrected = (
        loogle.score("longdep_qa", "", ["None"], protocol) for protocol in ("paper", "corrected")
    )
    assert (paper["bleu1"], paper["rouge_l_recall"], paper["meteor_exact_stem"]) == (100, 100, 50)
    assert paper["qa_f1"] == 0 and set(corrected.values()) == {0}


def test_next_question() -> None:
    prediction = "kitchen\n\nQuestion: Where is John? Answer: garden"
    given = "qa1", prediction, "kitchen", "Where is Mary?"
    assert babilong.score(*given, "paper") == 0
    assert babilong.score(*given) == 100
    assert babilong.score("qa1", "to the question: kitchen", *given[2:]) == 100


@given(st.text("ab=\n #/", max_size=40), st.text("ab= ", max_size=40))
def test_code_similarity_is_fuzzywuzzys_with_difflib(prediction: str, answer: str) -> None:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        from fuzzywuzzy import fuzz

        patch.setattr(fuzz, "SequenceMatcher", difflib.SequenceMatcher)
        lines = prediction.lstrip("\n").split("\n")
        line = next((each for each in lines if "#" not in each and "//" not in each), "")
        assert code_similarity(prediction, answer, "paper") == fuzz.ratio(line, answer) / 100


def test_classes_are_the_callers() -> None:
    for protocol in ("paper", "corrected"):
        one, other = (
            score_longbench("trec", "red date", ["date"], classes, protocol)
            for classes in (["date"], ["date", "red"])
        )
        assert (one, other) == (1, 0.5)


def test_reference_without_a_paragraph() -> None:
    assert retrieval("Paragraph 3", "3") == 0
    assert retrieval("3", "Paragraph 3") == 1


def test_jieba_is_silent_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys, headkv.metrics.longbench, headkv.metrics.loogle, headkv.metrics.babilong\n"
        "heavy = {'torch', 'transformers', 'jieba', 'nltk', 'rouge', 'rouge_score', 'fuzzywuzzy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert headkv.metrics.longbench.score('vcsum', '北京', ['北京'], None)\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr, list(tmp_path.iterdir())) == (0, "", [])


@given(st.text())
def test_words_of_chinese_lose_nothing(text: str) -> None:
    assert "".join(words(text)) == text
