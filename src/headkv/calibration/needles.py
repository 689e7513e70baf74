"""Needles to find heads with: phrases to copy, and choices between two people to reason about.

No evaluation uses these sentences, nor the half of the essays they are hidden in.
"""

from dataclasses import dataclass
from random import Random

PEOPLE = [
    "Anselm", "Brigid", "Casimir", "Dorothea", "Emeric", "Fenella", "Gideon", "Hesper", "Isolde",
    "Jerome", "Katrin", "Leopold", "Marguerite", "Nestor", "Ottilie", "Percival", "Quentin",
    "Rosalind", "Sylvester", "Theodora", "Ulric", "Viviane", "Winifred", "Xenia", "Yorick", "Zelda",
]  # fmt: skip
COLOURS = ["amber", "crimson", "teal", "ivory", "indigo", "scarlet", "olive", "violet", "copper"]
THINGS = [
    "lantern", "kettle", "saddle", "violin", "compass", "basket", "anchor", "mirror", "ladder",
    "bonnet", "hammer", "trumpet", "blanket", "candle", "barrel",
]  # fmt: skip
PLACES = [
    "under the stone bridge", "behind the old bakery", "beside the north gate",
    "inside the bell tower", "near the flooded quarry", "above the printing shop",
]  # fmt: skip
DISHES = [
    "roasted parsnips with thyme", "cold cherry soup", "smoked trout on rye bread",
    "plum dumplings in butter", "barley pudding with figs", "pickled pears and walnuts",
]  # fmt: skip
HOBBIES = [
    "carving tiny wooden owls", "collecting railway timetables", "painting harbour walls",
    "repairing broken clocks", "growing striped tomatoes", "translating fishermen's songs",
]  # fmt: skip


@dataclass(frozen=True)
class HeadTest:
    """One test of the heads.

    Attributes:
        sentences: to hide in the text; the first bears the answer.
        question: asked after the text.
        answer: as it stands in the first sentence.
    """

    sentences: tuple[str, ...]
    question: str
    answer: str


def retrieval_test(random: Random) -> HeadTest:
    """One fact and its question; the answer has to be copied."""
    person, colour, thing = random.choice(PEOPLE), random.choice(COLOURS), random.choice(THINGS)
    second = random.choice([other for other in THINGS if other != thing])
    place = random.choice(PLACES)
    sentence, question, answer = random.choice(
        [
            (
                f"The parcel for {person} contains one {colour} {thing} and a broken {second}.",
                f"What does the parcel for {person} contain?",
                f"one {colour} {thing} and a broken {second}",
            ),
            (
                f"{person} left the {colour} {thing} {place}.",
                f"Where did {person} leave the {colour} {thing}?",
                place,
            ),
            (
                f"The three watchwords of {person} are {colour}, {thing} and {second}.",
                f"What are the three watchwords of {person}?",
                f"{colour}, {thing} and {second}",
            ),
        ]
    )
    return HeadTest((sentence,), question, answer)


def retrieval_reasoning_test(random: Random) -> HeadTest:
    """Two people, a fact about each, and the facts that tell which of them is meant."""
    first, second = random.sample(PEOPLE, 2)
    topic, values = random.choice(
        [("favourite dish", DISHES), ("favourite pastime", HOBBIES), ("hiding place", PLACES)]
    )
    wanted, other = random.sample(values, 2)
    low, high = sorted(random.sample(range(18, 80), 2))
    subject, facts = random.choice(
        [
            ("older", (f"{first} is {high} years old.", f"{second} is {low} years old.")),
            ("younger", (f"{first} is {low} years old.", f"{second} is {high} years old.")),
            ("richer", (f"{first} owns {high} houses.", f"{second} owns {low} houses.")),
        ]
    )
    names = " and ".join(sorted((first, second)))
    return HeadTest(
        (f"The {topic} of {first} is {wanted}.", f"The {topic} of {second} is {other}.", *facts),
        f"What is the {topic} of the {subject} one of {names}?",
        wanted,
    )


TESTS = {"retrieval": retrieval_test, "retrieval_reasoning": retrieval_reasoning_test}
