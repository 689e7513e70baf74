"""LongProc's scores (arXiv 2501.05414): long answers that must be right line by line."""

import re
import string
from collections.abc import Sequence

_FILLER = re.compile(
    r"\b(a|an|the|on|in|at|step|thinks|think|believes|believe|is|are|of|location|know|knows|belief)\b"
)
_BELIEF = re.compile(r"^- (Step \d+:.*)")
_STEP = r"\s*(\d{1,99})\s*([-+*/])\s*(\d{1,99})\s*=\s*(\d{1,99})\s*"
_PUNCTUATION = str.maketrans("", "", string.punctuation + "\u2019")


def tagged(prediction: str, tag: str) -> str | None:
    """Returns what stands between `<tag>` and `</tag>`, stripped; None without both."""
    start, end = prediction.find(f"<{tag}>"), prediction.find(f"</{tag}>")
    return None if -1 in (start, end) else prediction[start + len(tag) + 2 : end].strip()


def path_traversal(prediction: str, reference: str) -> dict[str, float]:
    """Scores a route: wholly right, and lines up to and with the first wrong one.

    Args:
        prediction: the model's answer, the route between `<Route>` and `</Route>`.
        reference: the route, one step a line.

    Returns:
        accuracy, partial_accuracy and extraction_rate, fractions from 0 to 1.
    """
    route = tagged(prediction, "Route")
    if route is None:
        return _scores(0, 0, 0)
    given, wanted = route.split("\n"), reference.strip().split("\n")
    right = given == wanted
    return _scores(right, 1 if right else _common(given, wanted) / len(wanted), 1)


def countdown(
    prediction: str, numbers: Sequence[int], target: int, reference: str
) -> dict[str, float]:
    """Scores three equations that make the target of all four numbers, each used once.

    Any solution is right, not only the reference's. The partial accuracy is the share of the search
    procedure's lines before the first that does something else than the reference's.

    Args:
        prediction: the model's answer, with a `<Search Procedure>` and a `<Solution>`.
        numbers: the numbers to use.
        target: what they have to make.
        reference: the worked solution, which has both.
    """
    solution = tagged(prediction, "Solution")
    right = solution is not None and _solves(solution.split("\n"), list(numbers), target)
    partial = 1.0 if right else _procedure(prediction, reference)
    return _scores(right, partial, solution is not None)


def tom_tracking(prediction: str, reference: str) -> dict[str, float]:
    """Scores a trace of beliefs: wholly right, and the share of steps before the first wrong one.

    Case, punctuation and words that carry nothing do not matter; of several traces the last counts.

    Args:
        prediction: the model's answer, `- Step 0: ...` and so on.
        reference: the trace.
    """
    last = prediction.rfind("- Step 0:")
    given = _beliefs(prediction[max(last, 0) :])
    wanted = _beliefs(reference)
    right = given == wanted
    return _scores(right, _common(given, wanted) / len(wanted), bool(given))


def _scores(accuracy: float, partial: float, extracted: float) -> dict[str, float]:
    names = ("accuracy", "partial_accuracy", "extraction_rate")
    return dict(zip(names, map(float, (accuracy, partial, extracted)), strict=True))


def _common(given: Sequence[str], wanted: Sequence[str]) -> int:
    """How many lines are equal before the first that is not."""
    pairs = zip(given, wanted, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(given), len(wanted)))


def _beliefs(text: str) -> list[str]:
    found = (_BELIEF.match(line) for line in text.strip().split("\n"))
    return [_normal(match[1]) for match in found if match]


def _normal(text: str) -> str:
    return " ".join(_FILLER.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _solves(lines: Sequence[str], numbers: list[int], target: int) -> bool:
    if len(lines) != 3:
        return False
    for line in lines:
        step = re.fullmatch(_STEP, line)
        if step is None:
            return False
        left, right, result = int(step[1]), int(step[3]), int(step[4])
        if step[2] == "/" and (right == 0 or left % right):
            return False
        values = {"+": left + right, "-": left - right, "*": left * right}
        if result != (left // right if step[2] == "/" else values[step[2]]):
            return False
        for number in (left, right):
            if number not in numbers:
                return False
            numbers.remove(number)
        numbers.append(result)
    return numbers == [target]


def _procedure(prediction: str, reference: str) -> float:
    given, wanted = (
        (tagged(text, "Search Procedure") or "").strip().split("\n")
        for text in (prediction, reference)
    )
    if given[0] != wanted[0]:
        return 0.0
    done = 0
    for line, right in zip(given[1:], wanted[1:], strict=False):
        if line != right:
            same = "|- Try" in right and line.split("=")[0] == right.split("=")[0]
            if not same or ("drop this branch" in line) != ("drop this branch" in right):
                break
        done += 1
    return done / max(len(wanted) - 1, 1)
