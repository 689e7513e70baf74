"""The needle benchmark on made-up essays: places, lengths, seeds, order and scores."""

import hashlib
import json
import random
import re
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headkv.benchmarks import needle as benchmark
from headkv.benchmarks.base import check_scores
from headkv.benchmarks.haystack import Haystack, Placed, hide, insert
from headkv.benchmarks.needle import NEEDLES, Needle, NeedleConfig
from headkv.config import instantiate, load_group
from headkv.downloads.wheels import haystack_dir
from headkv.errors import UserError
from headkv.models.prompts import tokenise
from headkv.records import Example

Tokens = PreTrainedTokenizerFast
SMALL = {"lengths": [256, 512], "depths": 3, "per_cell": 1}
# In no needle, question or instruction.
WORDS = ["cloud", "river", "slowly", "walk", "under", "e.g.", "green", "of", "v1.5", "stone"]


def examples(*given: Any) -> list[Example]:
    return list(benchmark.examples(*given))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every word and every run of punctuation; only counts and places matter."""
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def essay(name: str, sentences: int = 150) -> str:
    """Sentences of 5 to 20 words, each with the essay's name in it."""
    rng = random.Random(name)
    parts = []
    for _ in range(sentences):
        words = [name.capitalize(), *rng.choices(WORDS, k=rng.randint(4, 19))]
        parts.append(" ".join(words) + rng.choice(".!?") + rng.choice([" ", "  ", "\n", "\n\n"]))
    return "".join(parts)


def write_essays(folder: Path) -> Path:
    for name in "abcdef":
        (folder / f"{name}.txt").write_text(essay(f"essay{name}"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_essays(tmp_path_factory.mktemp("haystack"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module")
def haystack(folder: Path, tokenizer: Tokens) -> Haystack:
    return Haystack.read(folder, "evaluation", tokenizer)


def at_sentence_end(placed: Placed, span: tuple[int, int]) -> bool:
    before, after = placed.text[: span[0]], placed.text[span[1] :]
    opens = not before or re.search(r"[.!?] $", before)
    closes = not after or re.match(r"\s+[A-Z]", after)
    return bool(opens and closes)


def context(example: Example) -> str:
    """The haystack with its needles, without instruction and question."""
    return example.prompt.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]


@settings(max_examples=60, deadline=None)
@given(
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    tokens=st.integers(200, 1500),
    where=st.floats(0, 1, exclude_max=True),
)
def test_needles_lie_once_at_sentence_ends_at_their_depths_in_a_text_of_the_length(
    haystack: Haystack,
    tokenizer: Tokens,
    depths: list[float],
    tokens: int,
    where: float,
) -> None:
    needles = [f"Needle number {number} is here." for number in range(len(depths))]
    placed = hide(haystack, needles, depths, tokens=tokens, where=where, tokenizer=tokenizer)
    assert tokens - 40 < len(tokenise(tokenizer, placed.text).ids) <= tokens
    bare = placed.text
    for needle, span in zip(needles, placed.spans, strict=True):
        assert placed.text.count(needle) == 1
        assert placed.text[slice(*span)] == needle
        assert at_sentence_end(placed, span)
        bare = bare.replace(needle, "")
    assert "".join(bare.split()) in "".join(haystack.text.split())
    length = len(tokenise(tokenizer, bare).ids)
    longest = max(b - a for a, b in pairwise(haystack.tokens))
    for depth, (start, _) in zip(depths, placed.spans, strict=True):
        before = placed.text[:start]
        for needle in needles:
            before = before.replace(needle, "")
        assert abs(len(tokenise(tokenizer, before).ids) - depth * length) <= longest / 2


def test_depth_0_is_before_the_first_sentence_and_1_after_the_last(tokenizer: Tokens) -> None:
    text = "One is e.g. here. Two is there.\nThree!"
    placed = insert(text, ["Last.", "First.", "Second."], [1, 0, 0], tokenizer)
    assert placed.text == f"First. Second. {text} Last."
    assert insert(text, ["N."], [0.5], tokenizer).text == text.replace(" Two", " N. Two")
    assert insert(text, [], [], tokenizer).text == text


def test_the_text_begins_and_ends_with_whole_sentences(haystack: Haystack) -> None:
    for where in (0, 0.3, 0.999):
        piece = haystack.cut(300, where)
        assert piece.startswith("Essay")
        assert piece[-1] in ".!?"
    assert haystack.cut(300, 0.1) != haystack.cut(300, 0.6)


def test_evaluation_and_head_scores_share_no_essay(folder: Path, tokenizer: Tokens) -> None:
    halves = [Haystack.read(folder, split, tokenizer) for split in ("evaluation", "heads")]
    names = [set(re.findall(r"Essay\w+", half.text)) for half in halves]
    assert names == [{"Essaya", "Essayc", "Essaye"}, {"Essayb", "Essayd", "Essayf"}]


def test_examples_are_evaluation_text_only(folder: Path, tokenizer: Tokens) -> None:
    prompts = " ".join(e.prompt for e in examples(NeedleConfig(), tokenizer, folder))
    assert set(re.findall(r"Essay\w+", prompts)) == {"Essaya", "Essayc", "Essaye"}


def test_examples(folder: Path, tokenizer: Tokens) -> None:
    config = NeedleConfig(max_new_tokens=17)
    built = Needle(**vars(config), haystack=folder).examples(tokenizer)
    assert len(built) == len({e.id for e in built}) == 2 * 2 * 5 * 3
    for example in built:
        text, (code,) = context(example), example.answers
        codes = re.findall(r"\b\d{5}\b", text)
        assert len(set(codes)) == len(codes) == NEEDLES[example.task]
        assert re.fullmatch(r"[1-9]\d{4}", code)
        # The question turns round the statement that holds the answer, and comes last.
        question = example.prompt.rsplit("\n\n", 1)[1]
        what = re.fullmatch(r"What is (the .+)\?", question)
        assert what
        statement = f"{what[1][0].upper()}{what[1][1:]} is {code}."
        assert text.count(statement) == 1
        length, depth = example.meta["length"], example.meta["depth"]
        tokens = len(tokenise(tokenizer, text).ids)
        assert length - 40 < tokens <= length
        before = len(tokenise(tokenizer, text[: text.index(statement)]).ids)
        assert example.meta["needle_token"] == before
        # The other needles can shift it by their own length.
        assert abs(before - depth * length) < 60
        assert example.max_new_tokens == 17
        assert example.id.startswith(f"{example.task}-{length}-d{round(100 * depth):03d}-")


def test_keyed_needles_are_spread_over_the_text(folder: Path, tokenizer: Tokens) -> None:
    config = NeedleConfig(tasks=("keyed",), lengths=(1024,), depths=(0.1,), per_cell=3)
    for example in examples(config, tokenizer, folder):
        text = context(example)
        places = [match.start() / len(text) for match in re.finditer(r"\b\d{5}\b", text)]
        assert places == pytest.approx([0.1, 0.35, 0.6, 0.85], abs=0.06)


def fingerprint(folder: Path) -> str:
    built = examples(NeedleConfig(**SMALL), word_tokenizer(), folder)
    return hashlib.sha256(repr(built).encode()).hexdigest()


def test_examples_are_the_same_in_every_process(folder: Path) -> None:
    code = "import sys, pathlib, test_needle as t; print(t.fingerprint(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parent,
        env={"PYTHONHASHSEED": "123", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == fingerprint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ["keyed"]},
        {"lengths": [512, 300]},
        {"depths": [1, 0.3, 0]},
        {"depths": 5},
        {"per_cell": 3},
    ],
)
def test_what_else_is_asked_changes_no_example(
    folder: Path, tokenizer: Tokens, change: dict[str, object]
) -> None:
    one = {e.id: e for e in examples(NeedleConfig(**SMALL), tokenizer, folder)}
    other = {e.id: e for e in examples(NeedleConfig(**{**SMALL, **change}), tokenizer, folder)}
    shared = one.keys() & other.keys()
    assert shared and len(shared) < len(one.keys() | other.keys())
    assert all(one[name] == other[name] for name in shared)


def test_another_seed_asks_something_else(folder: Path, tokenizer: Tokens) -> None:
    one, other = (examples(NeedleConfig(seed=seed), tokenizer, folder) for seed in (0, 1))
    assert not {e.prompt for e in one} & {e.prompt for e in other}
    assert [e.id for e in one] == [e.id for e in other]


@pytest.mark.parametrize("task", NEEDLES)
def test_the_first_examples_of_a_task_are_spread(
    folder: Path, tokenizer: Tokens, task: str
) -> None:
    built = examples(NeedleConfig(tasks=(task,)), tokenizer, folder)
    first = [e.meta for e in built]
    assert {e["length"] for e in first[:2]} == {1024, 2048}
    assert {e["depth"] for e in first[:5]} == {0, 0.25, 0.5, 0.75, 1}
    assert len({(e["length"], e["depth"]) for e in first[:10]}) == 10


@pytest.mark.parametrize(
    ("given_depths", "expected"),
    [
        (1, (0,)),
        (4, (0, 0.33, 0.67, 1)),
        (0.5, (0.5,)),
        ([0.2, 0.201, 1], (0.2, 1)),
    ],
)
def test_depths(given_depths: object, expected: tuple[float, ...]) -> None:
    assert NeedleConfig(depths=given_depths).depth_values() == expected


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tasks": ["single", "double"]}, "double"),
        ({"tasks": []}, "task"),
        ({"lengths": [255]}, "255"),
        ({"lengths": [1024.5]}, "1024.5"),
        ({"lengths": "long"}, "long"),
        ({"lengths": None}, "None"),
        ({"depths": 0}, "depths=0"),
        ({"depths": 102}, "102"),
        ({"depths": [0.5, 1.01]}, "1.01"),
        ({"depths": [-0.1]}, "-0.1"),
        ({"depths": [float("nan")]}, "nan"),
        ({"per_cell": 0}, "per_cell"),
        ({"seed": -1}, "seed"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 1025}, "max_new_tokens"),
    ],
)
def test_bounds(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        NeedleConfig(**wrong)


def test_a_haystack_that_is_missing_or_too_short(
    folder: Path, tmp_path: Path, tokenizer: Tokens
) -> None:
    with pytest.raises(UserError, match="tokens of whole sentences"):
        examples(NeedleConfig(lengths=(100_000,)), tokenizer, folder)
    with pytest.raises(UserError, match="no evaluation text among the 0"):
        examples(NeedleConfig(), tokenizer, tmp_path / "nowhere")
    (tmp_path / "only.txt").write_text(essay("essayonly"), encoding="utf-8")
    with pytest.raises(UserError, match="no heads text among the 1"):
        Haystack.read(tmp_path, "heads", tokenizer)


def test_an_essay_that_is_not_utf8_is_named(tmp_path: Path, tokenizer: Tokens) -> None:
    (tmp_path / "a.txt").write_bytes(b"Caf\xe9.")
    with pytest.raises(UserError, match=r"a\.txt"):
        Haystack.read(tmp_path, "evaluation", tokenizer)


def test_all_codes_of_several_are_asked_for_in_order(folder: Path, tokenizer: Tokens) -> None:
    config = NeedleConfig(tasks=("several",), lengths=(1024,), depths=(0.1,), per_cell=8)
    for example in examples(config, tokenizer, folder):
        text, (answer,) = context(example), example.answers
        question = example.prompt.rsplit("\n\n", 1)[1]
        asked = re.fullmatch(r"What are the (.+)s of (\w+), (\w+), (\w+) and (\w+)\?", question)
        assert asked and len(question) == example.question_chars
        codes = [
            re.findall(rf"The {asked[1]} of {key} is (\d+)\.", text) for key in asked.groups()[1:]
        ]
        assert answer == ", ".join(code for (code,) in codes)
        assert example.prompt.startswith("Read the text and answer the question")
        assert example.max_new_tokens == 60


def test_the_needle_of_the_papers(folder: Path, tokenizer: Tokens) -> None:
    needle = (
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
        "sunny day."
    )
    config = NeedleConfig(tasks=("sandwich",), lengths=(512,), depths=3)
    built = examples(config, tokenizer, folder)
    assert len({e.prompt for e in built}) == len(built) == 9
    for example in built:
        before, after = example.prompt.split(needle)
        assert before.startswith("This is a very long story book: <book> ")
        question = after[-example.question_chars :]
        assert after.endswith(f" </book>.\n {question}") and question.endswith("\nAnswer:")
        assert example.answers == (needle,) and example.max_new_tokens == 30
        assert example.stop == ("\n",)
    # All of the prediction's 8 words are among the needle's 21.
    scores = Needle(**vars(config), haystack=folder).score(
        built[0], "Eat a sandwich and sit in Dolores Park."
    )
    assert scores == pytest.approx(
        {"contains": 100, "rouge1_f": 10 * 16 / 29, "rouge1_recall": 100 * 8 / 21}
    )
    assert (
        Needle(**vars(config), haystack=folder).score(built[0], "Visit the museum")["contains"] == 0
    )


def test_the_demo_asks_what_it_always_asked(smollm2: tuple[Any, Any]) -> None:
    """Rows of the committed results stay valid: text, answers, lengths and order are theirs."""
    built = examples(NeedleConfig(), smollm2[1], haystack_dir())
    # Fields that came later and that these examples do not use.
    later = {"answer_prefix": "", "later_chars": None}
    rows = [asdict(example) for example in built]
    assert all(row.pop(name) == value for row in rows for name, value in later.items())
    text = json.dumps(rows, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "5232ea1dd93542225c04ea21a637768169c85c678a0741e918774af6cbfaf8de"
    )


def test_scores(folder: Path) -> None:
    benchmark = Needle(haystack=folder)
    example = Example("x", "single", "?", ("48213",), 20)
    # One of the seven words is the answer: precision 1/7, recall 1, F 1/4.
    assert benchmark.score(example, "The secret code of Riga is 48213.") == pytest.approx(
        {"contains": 100, "rouge1_f": 2.5, "rouge1_recall": 100}
    )
    assert list(benchmark.score(example, "48213").values()) == [100, 10, 100]
    assert set(benchmark.score(example, "148213").values()) == {0}
    four = Example("x", "several", "?", ("48213, 11111, 22222, 33333",), 60)
    scores = benchmark.score(four, "33333 and 48213, then 22222.")
    assert (scores["found"], scores["contains"], scores["rouge1_recall"]) == (75, 0, 75)
    assert benchmark.score(four, "22222 11111 48213 33333")["contains"] == 100
    for task in NEEDLES:
        assert benchmark.main_metric(task) in benchmark.score(replace(four, task=task), "")


def test_the_yaml_builds_the_default_configuration() -> None:
    settings = load_group("benchmark", "needle")
    assert settings["seed"] == "${seed}"  # the run's own
    benchmark = instantiate("benchmark needle", settings | {"seed": 0})
    assert benchmark.config == NeedleConfig() and benchmark.haystack == haystack_dir()


def test_essays_of_the_user_come_first_where_there_are_any(tmp_path: Path) -> None:
    own = tmp_path / "haystack"
    own.mkdir()
    assert Needle(data_dir=tmp_path).haystack == haystack_dir()  # an empty folder has none
    write_essays(own)
    assert Needle(data_dir=tmp_path).haystack == own
    assert Needle(data_dir=tmp_path, haystack=tmp_path).haystack == tmp_path


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"contains": 100.5}, "needle returned contains=100.5"),
        ({"contains": 50, "found": -1}, "needle returned found=-1"),
        ({"contains": float("nan")}, "needle returned contains=nan"),
        ({"contains": "100"}, "needle returned contains='100'"),
        ({"found": 100}, "needle returned no score 'contains'"),
    ],
)
def test_scores_that_cannot_be_are_named(scores: dict[str, Any], message: str) -> None:
    check_scores({"contains": 100, "found": 0}, "contains", "needle")
    with pytest.raises(UserError, match=re.escape(message)):
        check_scores(scores, "contains", "needle")
