"""Needles to find heads with, the prompt they are asked in, and where they are hidden.

Phrases to copy, and choices between two people to reason about. No evaluation uses these sentences,
nor the half of the essays they are hidden in.
"""

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from headkv.benchmarks.haystack import Haystack, evenly_spaced, hide
from headkv.models.prompts import render_user_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "{text}\n\nAnswer the question based on the content of the book.\nQuestion: {question}"
OPENING = "\nAnswer:"
"""What follows the prompt where it is no user's turn."""

COOPERATIVE = "cooperative"

KINDS = {
    "retrieval": "retrieval",
    "retrieval_reasoning": "retrieval_reasoning",
    "semantic": "retrieval",
    COOPERATIVE: "retrieval",
}
"""Kind of head scores -> the needles it is measured with, of `TESTS`."""

PEOPLE = [
    "Anselm",
    "Brigid",
    "Casimir",
    "Dorothea",
    "Emeric",
    "Fenella",
    "Gideon",
    "Hesper",
    "Isolde",
    "Jerome",
    "Katrin",
    "Leopold",
    "Marguerite",
    "Nestor",
    "Ottilie",
    "Percival",
    "Quentin",
    "Rosalind",
    "Sylvester",
    "Theodora",
    "Ulric",
    "Viviane",
    "Winifred",
    "Xenia",
    "Yorick",
    "Zelda",
]
COLOURS = ["amber", "crimson", "teal", "ivory", "indigo", "scarlet", "olive", "violet", "copper"]
THINGS = [
    "lantern",
    "kettle",
    "saddle",
    "violin",
    "compass",
    "basket",
    "anchor",
    "mirror",
    "ladder",
    "bonnet",
    "hammer",
    "trumpet",
    "blanket",
    "candle",
    "barrel",
]
PLACES = [
    "under the stone bridge",
    "behind the old bakery",
    "beside the north gate",
    "inside the bell tower",
    "near the flooded quarry",
    "above the printing shop",
]
DISHES = [
    "roasted parsnips with thyme",
    "cold cherry soup",
    "smoked trout on rye bread",
    "plum dumplings in butter",
    "barley pudding with figs",
    "pickled pears and walnuts",
]
HOBBIES = [
    "carving tiny wooden owls",
    "collecting railway timetables",
    "painting harbour walls",
    "repairing broken clocks",
    "growing striped tomatoes",
    "translating fishermen's songs",
]


@dataclass(frozen=True)
class HeadTest:
    """One test of the heads.

    Attributes:
        sentences: what to hide in the text; the first bears the answer.
        question: what is asked after the text.
        answer: the answer as it stands in the first sentence.
    """

    sentences: tuple[str, ...]
    question: str
    answer: str


def retrieval_test(random: Random) -> HeadTest:
    """Draws one fact and its question; the answer has to be copied.

    Args:
        random: the generator of the test.
    """
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
    """Draws two people, a fact about each, and the facts that tell which of them is meant.

    Args:
        random: the generator of the test.
    """
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
"""Kind of needles -> what draws one."""


@dataclass(frozen=True)
class Place:
    """Where a needle is hidden, and which of several it is.

    Attributes:
        length: tokens of text and needles.
        depth: share of the text before the needle that bears the answer, 0 to 1.
        number: repetition, from 0.
    """

    length: int
    depth: float
    number: int

    @property
    def name(self) -> str:
        """The place in words, which seeds the test."""
        return f"{self.length}-{round(100 * self.depth):03d}-{self.number}"


def places(lengths: tuple[int, ...], depths: int, repetitions: int) -> list[Place]:
    """Returns every length at every depth, as often as asked for.

    Args:
        lengths: tokens of text and needles.
        depths: how many depths, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
    """
    return [
        Place(length, depth, number)
        for length in lengths
        for depth in evenly_spaced(depths)
        for number in range(repetitions)
    ]


def hidden_test(
    needles: str, seed: int, place: Place, haystack: Haystack, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[HeadTest, str]:
    """Draws a test and hides it in the essays, the same for the same arguments.

    Args:
        needles: kind of needles, of `TESTS`.
        seed: seed of needles, values and text.
        place: where the needle is hidden.
        haystack: the essays that no evaluation uses.
        tokenizer: lengths and depths are measured in its tokens.

    Returns:
        The test, and the text with its question behind it.

    Raises:
        UserError: the haystack is shorter than the text.
    """
    random = Random(f"{seed}/{needles}/{place.name}")
    test = TESTS[needles](random)
    depths = [place.depth, *(random.random() for _ in test.sentences[1:])]
    placed = hide(
        haystack,
        test.sentences,
        depths,
        tokens=place.length,
        where=random.random(),
        tokenizer=tokenizer,
    )
    return test, PROMPT.format(text=placed.text, question=test.question)


def rendered(text: str, tokenizer: "PreTrainedTokenizerBase", chat_template: bool) -> str:
    """Returns a text as a user's turn, or with `OPENING` behind it.

    Args:
        text: text and question.
        tokenizer: the model's.
        chat_template: whether to make it a user's turn.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    return render_user_turn(tokenizer, text) if chat_template else text + OPENING
