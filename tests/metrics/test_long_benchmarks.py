"""Scores of InfiniteBench, SCBench, LongBench-v2 and LongProc on answers worked out by hand."""

import pytest

from headkv.metrics import infinitebench as scores
from headkv.metrics import longproc


def test_values_and_numbers() -> None:
    assert scores.key_value('{"k": "a-1"}', "a-1") == 1 and scores.key_value("xa-1", "a-1") == 0
    assert scores.first_integer("It is 71432, or 5", "71432") == 1
    assert scores.first_integer("714 32", "71432") == scores.first_integer("none", "1") == 0
    assert scores.last_integer("So it returns `-15`.", "-15") == 1
    assert scores.last_integer("-15 is it", "-15") == 0 and scores.last_integer("", "1") == 0
    assert scores.first_number("about 3.50 or 4", "3.5") == 1
    assert scores.first_number("4, not 3.5", "3.5") == scores.first_number("no", "3") == 0
    assert scores.leading_integers("7, 5, 16, 10", [7, 5, 15, 10]) == 0.5
    assert scores.leading_integers("", [1]) == 0


@pytest.mark.parametrize(
    ("text", "letter", "right"),
    [
        ("B", "B", 1),
        ("A is wrong, B it is", "B", 1),
        ("B, for A fails", "B", 0),  # the last lone letter
        ("The answer is: because", "B", 1),  # no lone letter: what stands behind the words
        ("Bananas", "B", 0),
        ("", "B", 0),
    ],
)
def test_choices(text: str, letter: str, right: int) -> None:
    assert scores.choice(text, letter) == right


def test_functions() -> None:
    assert scores.function_choice("second is broken", "B", "second") == 1
    assert scores.function_choice("The answer is: second", "B", "second") == 1
    assert scores.function_choice("Option C", "B", "second") == 0
    assert scores.function_choice("first", "B", "second") == 0


def test_texts() -> None:
    assert scores.dialogue("it is ines!", ["INES", "I."]) == 1 and scores.dialogue("P", ["Q"]) == 0
    assert scores.qa_f1("The Tamsel river", ["Tamsel", "x"]) == pytest.approx(2 / 3)
    assert scores.qa_f1_chinese("塔姆河。", ["塔姆河"]) == 1
    assert scores.qa_f1_chinese("塔河", ["塔姆河"]) == pytest.approx(0.8)
    assert scores.summary("a b c", ["a b c"]) == 1 and scores.summary("x", ["a b"]) == 0


def test_routes() -> None:
    wanted = "a\nb\nc\nd"
    assert longproc.path_traversal("a\nb", wanted)["extraction_rate"] == 0
    found = longproc.path_traversal("<Route>\na\nb\nx\nd\n</Route>", wanted)
    assert found == {"accuracy": 0, "partial_accuracy": 0.5, "extraction_rate": 1}
    found = longproc.path_traversal("<Route>a\nb\nc\nd</Route>", wanted)
    assert found == {"accuracy": 1, "partial_accuracy": 1, "extraction_rate": 1}


@pytest.mark.parametrize(
    ("lines", "right"),
    [
        ("5 + 4 = 9\n9 + 3 = 12\n12 + 2 = 14", 1),
        ("4 * 2 = 8\n8 + 3 = 11\n11 + 5 = 16", 0),  # another target
        ("5 + 4 = 9\n9 + 4 = 13\n13 + 3 = 16", 0),  # a number twice
        ("5 + 4 = 9\n9 + 3 = 12", 0),
        ("5 - 4 = 1\n3 / 2 = 1\n1 + 1 = 2", 0),
        ("__import__('os') + 1 = 2\na\nb", 0),
        ("5 * 2 = 10\n10 + 4 = 14\n14 * 3 = 42", 0),
        ("4 - 3 = 1\n5 + 2 = 7\n7 / 1 = 7", 0),
    ],
)
def test_countdown(lines: str, right: int) -> None:
    text = f"<Solution>\n{lines}\n</Solution>"
    reference = (
        "<Search Procedure>\ns\n |- Pick\n  |- Try 1 = 1\n  |- Try 2 = 2\n</Search Procedure>"
    )
    assert longproc.countdown(text, [5, 4, 3, 2], 14, reference)["accuracy"] == right


def test_countdown_procedure() -> None:
    reference = (
        "<Search Procedure>\nstart\n |- Pick a\n  |- Try 1 = 1, drop this branch\n  |- Try 2 = 2\n"
        "</Search Procedure>"
    )
    other = reference.replace("Try 2 = 2", "Try 2 = 3")  # the result does not matter, the act does
    assert longproc.countdown(other, [1], 1, reference)["partial_accuracy"] == 1
    other = reference.replace(", drop this branch", "")
    assert longproc.countdown(other, [1], 1, reference)["partial_accuracy"] == pytest.approx(1 / 3)
    other = reference.replace("start", "begin")
    assert longproc.countdown(other, [1], 1, reference)["partial_accuracy"] == 0


def test_beliefs() -> None:
    wanted = "- Step 0: {a: hall}\n- Step 1: {a: the yard}\n- Step 2: {a: hall}"
    assert longproc.tom_tracking(f"- Step 0: wrong\n{wanted}", wanted)["accuracy"] == 1
    assert longproc.tom_tracking(wanted.replace("the yard", "Yard!"), wanted)["accuracy"] == 1
    found = longproc.tom_tracking("- Step 0: {a: hall}\n- Step 1: {a: hall}", wanted)
    assert found == {"accuracy": 0, "partial_accuracy": pytest.approx(1 / 3), "extraction_rate": 1}
    assert longproc.tom_tracking("no steps", wanted)["extraction_rate"] == 0
