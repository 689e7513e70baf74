"""Scores of answers that are a label, a number, or a line of code."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher


def classification(
    prediction: str, answer: str, classes: Sequence[str], protocol: str = "corrected"
) -> float:
    """Computes LongBench's classification score: 1 / n if the answer is among n labels named.

    A label that is part of the answer's own (`number` in `Other number`) is not counted.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        classes: all labels of the task. The official script takes the last row's for all rows;
            here they are the caller's.
        protocol: `paper` shortens the list of labels while it runs through it, so that the label
            behind one left out is not looked at and goes on counting.
    """
    named = [label for label in classes if label in prediction]

    def part_of_answer(label: str) -> bool:
        return label in answer and label != answer

    if protocol == "paper":
        at = 0
        while at < len(named):
            if part_of_answer(named[at]):
                named.remove(named[at])
            at += 1
    else:
        named = [label for label in named if not part_of_answer(label)]
    return 1 / len(named) if answer in named else 0.0


def share_of_numbers(prediction: str, number: str) -> float:
    """Returns the share of the prediction's numbers that are the wanted one, digit for digit.

    Args:
        prediction: the model's answer; 0.0 is returned if it has no number.
        number: the digits wanted.
    """
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str) -> float:
    """Computes LongBench's retrieval score: `share_of_numbers` for the answer's paragraph.

    Args:
        prediction: the model's answer.
        answer: `Paragraph 7` or its Chinese form, with no blank before the number. 0.0 if it
            names none; the official code raises.
    """
    paragraph = re.search(r"(?:Paragraph |段落)(\d+)", answer)
    return share_of_numbers(prediction, paragraph[1]) if paragraph else 0.0


def code_similarity(prediction: str, answer: str, protocol: str = "corrected") -> float:
    """Computes LongBench's code similarity, of the first predicted line without `, # or //.

    `fuzzywuzzy.fuzz.ratio` as it is without python-Levenshtein, whether or not that is installed:
    difflib's ratio to two digits. LongBench does not ask for Levenshtein, whose ratio is another.

    Args:
        prediction: the model's answer.
        answer: the line wanted.
        protocol: `paper` takes a line of blanks for the answer, `corrected` skips it.
    """
    lines = prediction.lstrip("\n").split("\n")
    if protocol == "corrected":
        lines = [line for line in lines if line.strip()]
    line = next((each for each in lines if not re.search("`|#|//", each)), "")
    if not line or not answer:
        return float(line == answer)
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100
