"""BABILong: exactly the target's label, and none besides those of the question (2406.10149).

BABILong has published labels for qa1 to qa5 only. For qa6 to qa20 they are the answers that bAbI's
tasks have, looked for as whole words: `no` stands in `north`.
"""

import re

from headkv.errors import choose

_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_YES = ("no", "yes")
PUBLISHED = ("qa1", "qa2", "qa3", "qa4", "qa5")
"""Tasks whose labels BABILong has published."""
LABELS = {
    "qa1": _PLACES,
    "qa2": _PLACES,
    "qa3": _PLACES,
    "qa4": _PLACES,
    "qa5": ("apple", "bill", "football", "fred", "jeff", "mary", "milk"),
    "qa6": _YES,
    "qa7": ("none", "one", "three", "two"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa9": _YES,
    "qa10": ("maybe", *_YES),
    "qa11": _PLACES,
    "qa12": _PLACES,
    "qa13": _PLACES,
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa17": _YES,
    "qa18": _YES,
    "qa19": ("e", "n", "s", "w"),
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
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

    Labels of qa1 to qa5 are looked for in lower case and anywhere in the text (`office` in
    `offices`), as in BABILong's code; a target that the question names is never right. In qa8 a
    target may be several labels; in qa19, ways to go, their order counts.

    Args:
        task: `qa1` to `qa20`, with or without a length behind (`qa1_4k`).
        prediction: the model's answer.
        target: the label wanted.
        question: the question that was asked.
        protocol: `paper` does not end the answer at a next question: the published code looks for
            `Question` in text it has lowered. `corrected` does.

    Raises:
        UserError: no labels are known for this task, or no such protocol.
    """
    kind = task.partition("_")[0]
    labels = LABELS[choose("task", kind, list(LABELS))]
    ends = _ENDS[choose("protocol", protocol, sorted(_ENDS))]
    answer = re.split(ends, prediction, maxsplit=1)[0].lower()
    if kind not in PUBLISHED:
        words, asked = (re.findall(r"[a-z]+", text) for text in (answer, question.lower()))
        found = [word for word in words if word in labels and word not in asked]
        wanted = [part.strip() for part in target.lower().split(",")]
        return 100.0 * (found == wanted if kind == "qa19" else set(found) == set(wanted))
    named = {label for label in labels if label in answer and label not in question.lower()}
    return 100.0 * (named == {target.lower()})
