"""LooGLE: what is asked, of which rows, and where they come from."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from headkv.benchmarks import loogle
from headkv.benchmarks.loogle import FILES, HEADKV, OWN, WORDS, LooGLE
from headkv.config import instantiate, load_group
from headkv.errors import UserError

LONG = {
    "input": "A long {text}.",
    "title": "t",
    "qa_pairs": repr(
        [
            {"Q": "Why {this}?", "A": "Because.", "type": "comprehension_and_reasoning", "S": []},
            {"Q": "How many?", "A": 3, "type": "computation", "S": []},
        ]
    ),
    "output": "none",
}
SHORT = LONG | {"qa_pairs": repr([{"Q": "Who?", "A": "Nora", "S": []}])}
CLOZE = LONG | {
    "qa_pairs": repr([{"Q": "<mask-0> met <mask-1>.", "A": {"<mask-0>": "Nora", "<mask-1>": "Bo"}}])
}
SUMMARY = LONG | {"qa_pairs": "none", "output": "In short."}
ALL = dict(zip(FILES, (LONG, SHORT, CLOZE, SUMMARY), strict=True))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(repo: str, name: str, revision: str) -> Path:
        raise UserError("the hub does not answer", allowed="-", do="-")

    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loogle, "hub_file", unreachable)


def build(data_dir: Path | None = None, **given: Any) -> LooGLE:
    settings = load_group("benchmark", "loogle") | {"task": "headkv", "protocol": "corrected"}
    return instantiate("benchmark loogle", settings | given, data_dir=data_dir)


def folder_with(tmp_path: Path, **rows: list[dict[str, Any]]) -> Path:
    folder = tmp_path / "data" / "loogle"
    folder.mkdir(parents=True)
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder.parent


def test_kinds_of_questions_are_tasks(tmp_path: Path) -> None:
    data = folder_with(tmp_path, longdep_qa=[LONG, LONG])
    built = build(data).examples(None)
    assert [(e.task, e.id) for e in built] == [
        ("comprehension_and_reasoning", "1-1"),
        ("computation", "1-2"),
        ("comprehension_and_reasoning", "2-1"),
        ("computation", "2-2"),
    ]
    first, number = built[0], built[1]
    assert first.prompt.endswith("\n\nA long {text}.\n\nQuestion: Why {this}?\nAnswer:")
    assert first.prompt[-first.question_chars :] == "Question: Why {this}?\nAnswer:"
    assert (first.answers, first.max_new_tokens) == (("Because.",), 64)
    assert (number.answers, number.max_new_tokens) == (("3",), 32)
    whole = build(data, task="longdep_qa").examples(None)
    assert [(e.id, e.meta["type"]) for e in whole[:2]] == [
        ("1-1", "comprehension_and_reasoning"),
        ("1-2", "computation"),
    ]
    assert whole[0].prompt == first.prompt and whole[0].max_new_tokens == 500


def test_the_other_tasks(tmp_path: Path) -> None:
    data = folder_with(tmp_path, **{Path(name).stem: [row] for name, row in ALL.items()})
    built = {e.task: e for e in build(data, task="own").examples(None)}
    assert tuple(built) == OWN
    assert built["shortdep_qa"].max_new_tokens == 300
    cloze, summary = built["shortdep_cloze"], built["longdep_summarization"]
    assert cloze.answers == ("{'<mask-0>': 'Nora', '<mask-1>': 'Bo'}",)
    assert cloze.meta == {"blanks": 2} and cloze.max_new_tokens == 50
    assert "example: {'<mask-0>': 'Ada'" in cloze.prompt
    assert cloze.prompt[-cloze.question_chars :] == "Sentence: <mask-0> met <mask-1>.\nAnswer:"
    assert summary.prompt == "Summarise the paper below.\n\nA long {text}.\n\nSummary:"
    assert summary.answers == ("In short.",) and summary.id == "1-1"


def test_prompts_of_its_own(tmp_path: Path) -> None:
    """Out of the file that the user points at; `paper` has no others."""
    data = folder_with(tmp_path, longdep_qa=[LONG], shortdep_cloze=[CLOZE])
    with pytest.raises(UserError, match=r"task2prompt\.json"):
        build(data, protocol="paper")
    file = tmp_path / "task2prompt.json"
    forms = {name: f"{name} {{'<mask-0>': 'Bo'}} {{input}}\n? {{Q}} !" for name in WORDS}
    file.write_text(json.dumps(forms))
    first, *_, last = build(data, task="all", protocol="paper", prompts=str(file)).examples(None)
    assert first.prompt == "longdep_qa {'<mask-0>': 'Bo'} A long {text}.\n? Why {this}? !"
    assert last.prompt[-last.question_chars :] == "? <mask-0> met <mask-1>. !"
    file.write_text(json.dumps(forms | {"longdep_qa": "no place"}))
    with pytest.raises(UserError, match=r"longdep_qa in .* does not say where"):
        build(data, prompts=str(file))
    with pytest.raises(UserError, match="cannot be used"):
        build(data, prompts=str(tmp_path / "none.json"))


def test_malformed_entries_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    benchmark = build(folder_with(tmp_path, longdep_qa=[LONG | {"qa_pairs": "None"}, LONG]))
    for _ in range(3):
        assert len(list(benchmark.stream(None))) == 2
    assert caplog.text.count("longdep_qa.jsonl line 1") == 1


def test_every_answer_has_full_marks_for_itself(tmp_path: Path) -> None:
    data = folder_with(tmp_path, **{Path(name).stem: [row] for name, row in ALL.items()})
    benchmark = build(data, task="all")
    for example in benchmark.examples(None):
        assert example.answers[0]
        main = benchmark.main_metric(example.task)
        assert benchmark.score(example, example.answers[0])[main] == pytest.approx(100, abs=1e-5)
        assert benchmark.score(example, "zebra")[main] == 0


def test_malformed_entries_are_named_and_counted_and_the_rest_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"Q": "Why?", "A": "So.", "type": "computation"}
    pairs = [
        good,
        {"Q": "No answer?"},
        {"A": "no question"},
        good | {"type": "poetry"},
        "text",
        good,
    ]
    rows = [
        LONG | {"qa_pairs": "[{'Q': 'torn"},
        LONG | {"qa_pairs": repr(pairs)},
        LONG | {"qa_pairs": "__import__('os').abort()"},
        LONG | {"qa_pairs": "None"},
        LONG,
    ]
    built = build(folder_with(tmp_path, longdep_qa=rows)).examples(None)
    assert [(e.task, e.id) for e in built] == [
        ("computation", "2-1"),
        ("computation", "2-6"),
        ("comprehension_and_reasoning", "5-1"),
        ("computation", "5-2"),
    ]
    told = caplog.text.splitlines()
    lines = [line for line in told if "longdep_qa.jsonl line " in line]
    assert [line.split("line ")[1].split(",")[0] for line in lines] == [*"1222234"]
    assert "No answer?" in lines[1] and "'poetry'" in lines[3]
    assert "7 malformed of 11 entries in 5 documents" in told[-1]


def test_a_broken_line_is_a_mistake(tmp_path: Path) -> None:
    data = folder_with(tmp_path, longdep_qa=[LONG, {"context": "another schema"}])
    with pytest.raises(UserError, match=r"longdep_qa\.jsonl line 2"):
        build(data).examples(None)


def test_a_set_needs_its_files_and_all_takes_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = folder_with(tmp_path, longdep_qa=[LONG], shortdep_cloze=[CLOZE])
    assert build(data).chosen == [*HEADKV]
    assert caplog.text == ""
    assert build(data, task="all").chosen == [*HEADKV, "longdep_qa", "shortdep_cloze"]
    assert "not asked: shortdep_qa.jsonl, longdep_summ" in caplog.text
    assert build(data, task="own").chosen == ["longdep_qa", "shortdep_cloze"]
    with pytest.raises(UserError, match=r"shortdep_qa\.jsonl"):
        build(data, task="shortdep_qa")
    with pytest.raises(UserError, match="reasoning_and_comprehension"):
        build(data, task="reasoning_and_comprehension")


def test_without_data_and_network_the_sample(caplog: pytest.LogCaptureFixture) -> None:
    benchmark = build(task="all")
    assert benchmark.name == "loogle_sample"
    built = benchmark.examples(None)
    assert {e.task for e in built} == set(benchmark.tasks)
    assert max(len(e.prompt) for e in built) > 3500
    told = caplog.text
    assert "SAMPLE" in told and "malformed" not in told


def test_the_archive_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, row in ALL.items():
            zipped.writestr(f"data/{name}", json.dumps(row) + "\n")
        zipped.writestr("data/other.txt", "x")
    asked: list[Any] = []

    def hub_file(repo: str, name: str, revision: str) -> Path:
        asked.append((repo, name, len(revision)))
        return archive

    monkeypatch.setattr(loogle, "hub_file", hub_file)
    benchmark = build(task="all")
    assert benchmark.name == "loogle" and len(benchmark.examples(None)) == 7
    assert asked == [("bigai-nlco/LooGLE", "data.zip", 40)]
    assert {path.name for path in benchmark.source.folder.iterdir()} == set(FILES)


def test_a_broken_archive_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_text("<html>")
    monkeypatch.setattr(loogle, "hub_file", lambda repo, name, revision: tmp_path / name)
    with pytest.raises(UserError, match="is broken"):
        loogle.fetch(tmp_path, FILES)
