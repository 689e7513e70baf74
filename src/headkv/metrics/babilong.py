"""BABILong: exactly the target's label, and none besides those of the question (2406.10149)."""

import re

from headkv.errors import choose

_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
LABELS = {
    "qa1": _PLACES,
    "qa2": _PLACES,
    "qa3": _PLACES,
    "qa4": _PLACES,
    "qa5": ("apple", "bill", "football", "fred", "jeff", "mary", "milk"),
}
# Where the answer ends: its first sentence, or an example or question of the model's own.
_ENDS = {
    "paper": r"\.|(?i:<context>|<example>)",
    "corrected": r"\.|(?i:<context>|<example>)|Question",
}


def score(
    task: str, prediction: str, target: str, question: str, protocol: str = "corrected"
) -> float:
    """Returns 100 if the labels in the answer, less the question's, are just the target; else 0.

    Labels are looked for in lower case and anywhere in the text (`office` in `offices`), as in
    BABILong's code; a target that the question names is never right.

    Args:
        task: `qa1` to `qa5`, with or without a length behind (`qa1_4k`).
        prediction: the model's answer.
        target: the label wanted.
        question: the question that was asked.
        protocol: `paper` does not end the answer at a next question: the published code looks for
            `Question` in text it has lowered. `corrected` does.

    Raises:
        UserError: no labels are known for this task, or no such protocol.
    """
    labels = LABELS[choose("task", task.partition("_")[0], sorted(LABELS))]
    ends = _ENDS[choose("protocol", protocol, sorted(_ENDS))]
    answer = re.split(ends, prediction, maxsplit=1)[0].lower()
    named = {label for label in labels if label in answer and label not in question.lower()}
    return 100.0 * (named == {target.lower()})
