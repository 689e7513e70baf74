"""The corpus of people and projects: records, questions, and that the records answer them."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from headkv.benchmarks.corpus import Corpus
from headkv.errors import UserError
from headkv.metrics.corpus import entity_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def tokenizer(
    byte_tokenizer: "Callable[..., PreTrainedTokenizerFast]",
) -> "PreTrainedTokenizerFast":
    return byte_tokenizer()


@pytest.mark.parametrize(("level", "similar"), [(1, False), (4, True), (8, False)])
def test_records_answer_the_questions(
    level: int, similar: bool, tokenizer: "PreTrainedTokenizerFast"
) -> None:
    benchmark = Corpus(f"connectivity_{level}", 30_000, similar_names=similar)
    examples = list(benchmark.stream(tokenizer))
    assert [e.id for e in examples] == [f"{n:02d}" for n in range(50)]
    assert sum(e.meta["join"] for e in examples) == 25
    (text,) = {e.prompt[: len(e.prompt) - e.question_chars] for e in examples}
    # One person more, with their projects, would be too many.
    assert 30_000 - (level + 2) * 300 < len(text) < 30_300
    facts = {
        title: (domain, sponsor, year)
        for title, domain, sponsor, year in re.findall(
            r"project ([\w ]+?) belongs to the domain of (\w+)\. It is sponsored by ([\w ]+?) and "
            r"began in (\d+)\.",
            text,
        )
    }
    members: dict[str, dict[str, tuple[str, str]]] = {}
    for name, title, role, department in re.findall(
        r"([\w ]+?) is a member of the project ([\w ]+?), as (\w+) in the department of (\w+)\.",
        text,
    ):
        members.setdefault(name.strip(), {})[title] = (role, department)
    assert all(len(own) == level for own in members.values()) and len(members) > 1
    assert all(re.search(rf"{name} is \d+ years old", text) for name in members)
    assert all(name.startswith("Person_") for name in members) == similar
    for example in examples:
        asked = example.prompt[-example.question_chars :]
        (name,) = [name for name in members if re.search(rf"\b{name}\b(?! \d)", asked)]
        own = members[name]
        if example.meta["join"]:
            kind = ["domains", "sponsors", "start years"].index(
                re.search(r"the (domains|sponsors|start years) of", asked)[1]
            )
            wanted = {facts[title][kind] for title in own}
        elif "Which projects" in asked:
            wanted = set(own)
        else:
            (title,) = [title for title in own if asked.endswith(f"project {title}?")]
            wanted = {own[title]["role of" not in asked]}
        assert set(example.answers) == wanted
        assert benchmark.score(example, ", ".join(example.answers))["overlap"] == 100


def test_nothing_is_made_that_is_not_wanted(
    tokenizer: "PreTrainedTokenizerFast", monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    document = Corpus.document
    monkeypatch.setattr(
        Corpus, "document", lambda self, level, t: made.append(level) or document(self, level, t)
    )
    benchmark = Corpus(["connectivity_2", "connectivity_3"], 9000)
    (one,) = benchmark.stream(tokenizer, lambda task, id: (task, id) == ("connectivity_3", "07"))
    assert made == [3] and one.id == "07"
    again = [e for e in benchmark.stream(tokenizer) if e.task == one.task][7]
    assert again == one


def test_scores() -> None:
    assert entity_scores("Amber Bridge, dune tower.", ["Amber Bridge", "Dune Tower"]) == {
        "overlap": 1,
        "word_f1": 1,
    }
    found = entity_scores("the bridge amber", ["Amber Bridge", "Dune Tower"])
    assert found == {"overlap": 0, "word_f1": pytest.approx(4 / 7)}
    assert entity_scores("", ["x"]) == {"overlap": 0, "word_f1": 0}


def test_bad_settings(tokenizer: "PreTrainedTokenizerFast") -> None:
    with pytest.raises(UserError, match="connectivity_9"):
        Corpus("connectivity_9")
    with pytest.raises(UserError, match="lengths=10"):
        Corpus(lengths=10)
    with pytest.raises(UserError, match="connectivity_8 does not fit into 1000 tokens"):
        list(Corpus("connectivity_8", 1000).stream(tokenizer))
