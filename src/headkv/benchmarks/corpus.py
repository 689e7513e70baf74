"""A made-up corpus of people and projects, and fifty questions on it ("Beyond RAG", 2503.04973).

A person belongs to as many projects as the connectivity says. Half of the questions are direct:
which projects, role and department in one; half have to join what stands in different places:
domains, start years and sponsors of a person's projects. Everything is drawn from the seed; the
texts are ours. All questions of a task are about one document, which is prefilled once.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from headkv.benchmarks.base import Benchmark, Wanted
from headkv.benchmarks.sizes import largest_size
from headkv.benchmarks.task_names import expand
from headkv.errors import UserError
from headkv.metrics.corpus import entity_scores
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "corpus"
TASKS = tuple(f"connectivity_{level}" for level in range(1, 9))
DIRECT, JOIN = 25, 25
"""Questions of each sort."""
_CHUNK_TOKENS = 256  # of an entity's text with its filler; in a short corpus fewer, so that there
_CHUNKS = 125  # are always about so many entities, as in the paper's 32k
_FIRST = "Ada Bram Cleo Dario Esme Finn Greta Hugo Iris Joel Kira Leon Mila Noor Otto Pia Quin Rosa"
_LAST = (
    "Abel Birch Crane Drew Ellis Frost Grant Heath Irwin Jarvis Keane Lowe Marsh Nolan Osborn Pryce"
)
_JOBS = (
    "botanist",
    "welder",
    "tailor",
    "surveyor",
    "translator",
    "chemist",
    "cartographer",
    "baker",
)
_CITIES = ("Bergen", "Cusco", "Dakar", "Galway", "Hobart", "Izmir", "Lucknow", "Malaga")
_HOBBIES = (
    "rowing",
    "chess",
    "pottery",
    "birdwatching",
    "juggling",
    "origami",
    "fencing",
    "baking",
)
_WORDS = "Amber Basalt Cobalt Dune Ember Flint Garnet Harbor Indigo Juniper Kestrel Lagoon"
_THINGS = "Bridge Compass Engine Ledger Mirror Orchard Signal Tower Valley Window"
_DOMAINS = (
    "energy",
    "medicine",
    "transport",
    "farming",
    "archives",
    "acoustics",
    "housing",
    "optics",
)
_SPONSORS = "Arden Fund|Bellmont Trust|Corvin Group|Dalby Works|Eastgate Bank|Fenwick Guild"
_ROLES = ("lead", "analyst", "editor", "auditor", "planner", "tester")
_DEPARTMENTS = ("research", "finance", "logistics", "design", "quality", "training")
_FILLER = (
    "The notes of that week are kept with the others.",
    "Nothing else was recorded on the same page.",
    "The entry was copied once and checked twice.",
    "Further remarks follow in the usual order.",
)
_TASK = "Read the records and answer the question behind them with names only, commas between them."


class Project(NamedTuple):
    """A project: what it is about, who pays for it and when it began."""

    title: str
    domain: str
    sponsor: str
    year: int


class Membership(NamedTuple):
    """What a person does in a project."""

    project: Project
    role: str
    department: str


class Asked(NamedTuple):
    """A question, the entities that answer it, and whether it has to join records."""

    text: str
    answers: tuple[str, ...]
    join: bool


class Corpus(Benchmark):
    """The corpus; a task is a connectivity, `connectivity_1` to `connectivity_8`.

    Args:
        task: a task, several, or `all`.
        lengths: tokens of the corpus, 1,000 to 1,000,000.
        similar_names: whether people are called Person_01 and so on, nearly all alike.
        seed: of everything that is drawn.
        data_dir: not read; nothing is.

    Raises:
        UserError: no such task, or a length out of bounds.
    """

    name = NAME
    tasks = TASKS
    truncates = False

    def __init__(
        self,
        task: str | Sequence[str] | None = None,
        lengths: int = 32_000,
        similar_names: bool = False,
        seed: int = 0,
        data_dir: Path | None = None,
    ) -> None:
        if not 1000 <= lengths <= 1_000_000:
            raise UserError(
                f"lengths={lengths}", allowed="tokens from 1,000 to 1,000,000", do="change lengths="
            )
        self.length, self.similar, self.seed = lengths, similar_names, seed
        self.chosen = expand(task, self.tasks, self.sets)
        self.longest = lengths

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """See `Benchmark`; a document is made when the first of its questions is wanted."""
        for task in self.chosen:
            ids = [f"{number:02d}" for number in range(DIRECT + JOIN)]
            some = {id for id in ids if wanted(task, id)}
            if not some:
                continue
            level = int(task.rpartition("_")[2])
            text, asked = self.document(level, tokenizer)
            for id, question in zip(ids, asked, strict=True):
                if id in some:
                    yield Example(
                        id=id,
                        task=task,
                        prompt=f"{_TASK}\n\n{text}\n\nQuestion: {question.text}",
                        answers=question.answers,
                        max_new_tokens=16 + 12 * len(question.answers),
                        question_chars=len(f"Question: {question.text}"),
                        meta={"connectivity": level, "join": question.join, "length": self.length},
                    )

    def main_metric(self, task: str) -> str:
        """Returns the share of the right entities that are named."""
        return "overlap"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns overlap, and precision and F1 of the words, 0 to 100."""
        found = entity_scores(prediction, example.answers)
        return {name: 100 * value for name, value in found.items()}

    def document(self, level: int, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, list[Asked]]:
        """Returns the corpus of a connectivity and its questions.

        Args:
            level: projects that every person belongs to.
            tokenizer: the length is measured in its tokens.

        Raises:
            UserError: the corpus is too short for so many projects.
        """

        def tokens(people: int) -> int:
            text, _ = self._written(level, people, tokenizer)
            return len(tokenizer(text, verbose=False)["input_ids"])

        found = largest_size(tokens, self.length, 1, max(self.length // 900, 2))
        if found is None:
            raise UserError(
                f"connectivity_{level} does not fit into {self.length} tokens",
                allowed="a length that one person and their projects fit into",
                do="raise lengths=, or ask a lower connectivity",
            )
        return self._written(level, found[0], tokenizer)

    def _written(
        self, level: int, count: int, tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[str, list[Asked]]:
        """The corpus of so many people, the same people first whatever their number."""
        rng = Random(f"{self.seed}/{level}/{count}/{self.similar}")
        projects = _projects(rng, max(level + 2, count // 2 + level))
        names = self._names(rng, count)
        members: dict[str, list[Membership]] = {
            name: [
                Membership(project, rng.choice(_ROLES), rng.choice(_DEPARTMENTS))
                for project in rng.sample(projects, level)
            ]
            for name in names
        }
        chunks = [_person(name, rng) for name in names]
        chunks += [_project(project) for project in projects]
        chunks += [_member(name, each) for name, own in members.items() for each in own]
        rng.shuffle(chunks)
        fill = min(_CHUNK_TOKENS, self.length // _CHUNKS)
        text = "\n\n".join(_filled(chunk, fill, rng, tokenizer) for chunk in chunks)
        return text, _questions(members, rng)

    def _names(self, rng: Random, count: int) -> list[str]:
        if self.similar:
            return [f"Person_{number:02d}" for number in range(1, count + 1)]
        every = [f"{first} {last}" for last in _LAST.split() for first in _FIRST.split()]
        if count > len(every):
            every += [f"{name} {number}" for number in range(2, count) for name in every]
        return rng.sample(every[: max(count, 288)], count)


def _projects(rng: Random, count: int) -> list[Project]:
    titles = [f"{word} {thing}" for word in _WORDS.split() for thing in _THINGS.split()]
    titles = rng.sample(titles, len(titles))
    titles += [
        f"{title} {number}" for number in range(2, count // len(titles) + 3) for title in titles
    ]
    sponsors = _SPONSORS.split("|")
    return [
        Project(title, rng.choice(_DOMAINS), rng.choice(sponsors), rng.randrange(1950, 2020))
        for title in titles[:count]
    ]


def _person(name: str, rng: Random) -> str:
    hobbies = " and ".join(rng.sample(_HOBBIES, 2))
    return (
        f"{name} is {rng.randrange(21, 80)} years old, works as a {rng.choice(_JOBS)} in "
        f"{rng.choice(_CITIES)} and likes {hobbies}."
    )


def _project(project: Project) -> str:
    return (
        f"The project {project.title} belongs to the domain of {project.domain}. It is sponsored "
        f"by {project.sponsor} and began in {project.year}."
    )


def _member(name: str, member: Membership) -> str:
    return (
        f"{name} is a member of the project {member.project.title}, as {member.role} in the "
        f"department of {member.department}."
    )


def _filled(chunk: str, tokens: int, rng: Random, tokenizer: "PreTrainedTokenizerBase") -> str:
    """A record with neutral sentences behind it, about so many tokens in all."""
    each = len(tokenizer(" " + _FILLER[0], add_special_tokens=False)["input_ids"])
    have = len(tokenizer(chunk, add_special_tokens=False)["input_ids"])
    count = max((tokens - have) // each, 0)
    return " ".join([chunk, *(rng.choice(_FILLER) for _ in range(count))])


def _questions(members: Mapping[str, Sequence[Membership]], rng: Random) -> list[Asked]:
    """Twenty-five direct questions and as many that join, in turn over the people."""
    names = rng.sample(list(members), len(members))
    asked = []
    for number in range(DIRECT + JOIN):
        name = names[number % len(names)]
        own, join = members[name], number % 2 == 1
        kind, each = number // 2 % 3, rng.choice(own)
        if join:
            what = ("domains", "sponsors", "start years")[kind]
            values: list[Any] = [
                (m.project.domain, m.project.sponsor, m.project.year)[kind] for m in own
            ]
            text = f"What are the {what} of the projects that {name} is a member of?"
        elif kind == 0:
            text = f"Which projects is {name} a member of?"
            values = [m.project.title for m in own]
        else:
            what = ("role", "department")[kind - 1]
            text = f"What is the {what} of {name} in the project {each.project.title}?"
            values = [(each.role, each.department)[kind - 1]]
        asked.append(Asked(text, tuple(dict.fromkeys(map(str, values))), join))
    return asked
