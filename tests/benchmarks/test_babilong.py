"""BABILong: what is asked, of which rows, and where they come from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from headkv.benchmarks import babilong, rows
from headkv.benchmarks.babilong import TASKS, BabiLong, fetch
from headkv.benchmarks.babilong_prompts import PARTS, load_prompt
from headkv.config import instantiate, load_group
from headkv.errors import UserError

ROW = {"input": "Mary went to the garden.", "question": "Where is Mary? ", "target": "garden"}


def load_prompts() -> None:
    """Out of the real cache, before the tests have one of their own."""
    for task in TASKS:
        load_prompt(task)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(repo: str, name: str) -> Path:
        raise UserError("the hub does not answer", allowed="-", do="-")

    load_prompts()
    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(babilong, "hub_file", unreachable)


def build(data_dir: Path | None = None, **given: Any) -> BabiLong:
    settings = load_group("benchmark", "babilong") | {"task": None, "protocol": "corrected"}
    return instantiate("benchmark babilong", settings | given, data_dir=data_dir)


def folder_with(tmp_path: Path, *tasks: str, rows: list[dict[str, Any]] | None = None) -> Path:
    folder = tmp_path / "data" / "babilong"
    folder.mkdir(parents=True)
    for task in tasks:
        lines = [json.dumps(row) + "\n" for row in rows or [ROW, ROW]]
        (folder / f"{task}.jsonl").write_text("".join(lines))
    return folder.parent


def test_the_official_prompt(tmp_path: Path) -> None:
    (first, second) = build(folder_with(tmp_path, "qa1_0k")).examples(None)
    instruction, rest = first.prompt.split("\n<example>\n", 1)
    assert instruction.startswith("I will give you context with the facts about positions")
    assert instruction.endswith("use the latest location to answer the question.")
    assert rest.endswith(
        "\n</example>\nAlways return your answer in the following format: The most recent location "
        "of \u2019person\u2019 is \u2019location\u2019. Do not write anything else after that. \n"
        "<context>\nMary went to the garden.\n</context>\nQuestion: Where is Mary?"
    )
    assert first.prompt[-first.question_chars :] == "Question: Where is Mary?"
    assert (first.answers, first.max_new_tokens, first.stop) == (("garden",), 15, ())
    assert (first.id, second.id) == ("001", "002")
    assert first.meta["length"] == "0k"


PUBLISHED = {
    "qa1": "35291ffa2f6a0b8f",
    "qa2": "4746d936b2085f4f",
    "qa3": "8a880e5eacc241a5",
    "qa4": "d6b6d71d4369cfa5",
    "qa5": "2babb04fcc194a16",
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_words_to_the_letter(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put together from lm-eval's yaml; these are hashes of BABILong's own, misprints included."""
    monkeypatch.undo()  # the real cache
    prompt = load_prompt(task)
    text = "\0".join(prompt[part] for part in PARTS)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PUBLISHED[task]


def test_all_twenty_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    prompts = [load_prompt(task) for task in TASKS]
    assert len({prompt["examples"] for prompt in prompts}) == len(prompts) == 20
    for prompt in prompts:
        assert prompt["instruction"].startswith("I") and prompt["examples"].count("Answer:") >= 2
        assert prompt["post_prompt"].startswith(("Always return", "Your answer"))


def test_every_task_has_a_prompt_of_its_own(tmp_path: Path) -> None:
    data = folder_with(tmp_path, *(f"qa{number}_4k" for number in range(1, 6)))
    built = build(data, task="4k").examples(None)
    assert len({example.prompt for example in built}) == 5
    assert all("\n<context>\n" in e.prompt and e.prompt.count("<example>") >= 2 for e in built)


@pytest.mark.parametrize(
    ("task", "chosen"),
    [
        (None, ["qa1_0k", "qa2_4k"]),
        ("all", ["qa1_0k", "qa2_4k"]),
        ("qa2_4k", ["qa2_4k"]),
        (["qa2_4k", "qa1_0k"], ["qa2_4k", "qa1_0k"]),
    ],
)
def test_tasks_that_are_there(
    tmp_path: Path, task: Any, chosen: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    benchmark = build(folder_with(tmp_path, "qa1_0k", "qa2_4k"), task=task)
    assert (benchmark.chosen, benchmark.name) == (chosen, "babilong")
    assert [e.task for e in benchmark.examples(None)] == [t for t in chosen for _ in range(2)]
    told = caplog.text
    assert ("so not asked: qa1_1k, qa1_2k" in told) == (task in (None, "all"))


def test_a_length_and_a_task_are_sets(tmp_path: Path) -> None:
    data = folder_with(tmp_path, "qa1_0k", "qa1_1k", "qa3_1k", "qa3_0k")
    assert build(data, task="qa1", lengths=["0k", "1k"]).chosen == ["qa1_0k", "qa1_1k"]
    with pytest.raises(UserError, match=r"qa2_1k\.jsonl"):
        build(data, task="1k")  # asked for by name, so all of it has to be there


@pytest.mark.parametrize(
    ("given", "named"),
    [({"task": "qa21"}, "qa21"), ({"lengths": ["3k"]}, "3k"), ({"task": "qa1_16k"}, "qa1_16k")],
)
def test_what_there_is_not(tmp_path: Path, given: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build(folder_with(tmp_path, "qa1_0k"), **given)


def test_scores(tmp_path: Path) -> None:
    benchmark = build(folder_with(tmp_path, "qa1_0k"))
    example = benchmark.examples(None)[0]
    right = "The most recent location of Mary is garden. The kitchen is empty."
    assert benchmark.score(example, right) == {benchmark.main_metric("qa1_0k"): 100}
    assert benchmark.score(example, "Mary is in the garden or the office") == {"exact_label": 0}


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    data = folder_with(tmp_path, "qa1_0k", rows=[ROW, ROW | {"target": None}])
    with pytest.raises(UserError, match=r"qa1_0k\.jsonl line 2"):
        build(data).examples(None)


def test_without_data_and_network_the_sample(caplog: pytest.LogCaptureFixture) -> None:
    benchmark = build()
    assert benchmark.name == "babilong_sample"
    assert {name.split("_")[0] for name in benchmark.sets["headkv"]} == set(TASKS[:5])
    built = benchmark.examples(None)
    assert {e.task for e in built} == {
        *(f"qa{n}_{length}" for n in range(1, 6) for length in ("0k", "1k")),
        *(f"qa{n}_0k" for n in range(6, 21)),
    }
    assert "SAMPLE" in caplog.text
    assert build(task="qa2").chosen == ["qa2_0k", "qa2_1k"]
    for example in built:
        assert benchmark.score(example, example.answers[0]) == {"exact_label": 100}
        assert len(example.prompt) > 3500 or example.task.endswith("0k")
    with pytest.raises(UserError, match="qa1_8k"):
        build(task="qa1_8k")


def test_rows_of_the_hub_become_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def hub_file(repo: str, name: str) -> Path:
        asked.append((repo, name))
        found = tmp_path / "hub.json"
        found.write_text(json.dumps([ROW | {"input": "Zoë went."}, ROW]))
        return found

    monkeypatch.setattr(babilong, "hub_file", hub_file)
    fetch(tmp_path, ["qa1_16k.jsonl"])
    assert asked == [("RMT-team/babilong", "data/qa1/16k.json")]
    lines = (tmp_path / "qa1_16k.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [ROW | {"input": "Zoë went."}, ROW]
    # And as the source of a run, from then on out of the cache.
    assert build(task="qa1_16k", lengths=["16k"]).name == "babilong"
    assert (rows.cache_dir() / "data" / "babilong" / "qa1_16k.jsonl").is_file()
