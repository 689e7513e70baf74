"""RULER's scores (arXiv 2404.06654): references that stand in the answer, letter for letter."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def all_found(prediction: str, references: Sequence[str]) -> float:
    """Computes `string_match_all`: the share of the references that stand in the answer.

    Args:
        prediction: the model's answer; case does not matter, nor do control characters.
        references: every one that is wanted.

    Returns:
        A fraction from 0 to 1.
    """
    text = _plain(prediction)
    return sum(reference.lower() in text for reference in references) / len(references)


def any_found(prediction: str, references: Sequence[str]) -> float:
    """Computes `string_match_part`: 1.0 if any reference stands in the answer, else 0.0."""
    text = _plain(prediction)
    return float(any(reference.lower() in text for reference in references))


def _plain(prediction: str) -> str:
    return _CONTROL.sub("\n", prediction.strip()).strip().lower()
