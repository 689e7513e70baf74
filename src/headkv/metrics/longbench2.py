"""LongBench-v2: which of four choices an answer names (arXiv 2412.15204)."""

import re

_FORMS = (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])")


def chosen(prediction: str) -> str | None:
    """Returns the letter that an answer names in the form it was asked for, or None.

    Args:
        prediction: the model's answer; asterisks, as around bold text, do not count.
    """
    text = prediction.replace("*", "")
    found = next((match for form in _FORMS if (match := re.search(form, text))), None)
    return found[1] if found else None


def accuracy(prediction: str, answer: str) -> float:
    """Returns 1.0 if the answer names the right letter, else 0.0."""
    return float(chosen(prediction) == answer)
