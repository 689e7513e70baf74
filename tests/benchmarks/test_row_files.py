"""LongBench-v2, InfiniteBench, SCBench and LongProc: what is asked of the sample, and bad files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from headkv.benchmarks import infinitebench, longbench2, longproc, scbench
from headkv.benchmarks.row_files import RowFiles
from headkv.benchmarks.rows import SAMPLES
from headkv.config import instantiate, load_group
from headkv.errors import UserError
from headkv.records import Example

TASKS = {
    "longbench2": longbench2.TASKS,
    "infinitebench": infinitebench.TASKS,
    "scbench": tuple(scbench.NEW_TOKENS),
    "longproc": tuple(f"{kind}_0.5k" for kind in longproc.KINDS),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repo: str, name: str) -> Path:
        raise UserError("the hub does not answer", allowed="-", do="-")

    monkeypatch.setattr("headkv.benchmarks.row_files.hub_file", unreachable)


def build(name: str, task: Any, data_dir: Path | None = None, **given: Any) -> RowFiles:
    settings = load_group("benchmark", name) | {"task": task} | given
    return instantiate(f"benchmark {name}", settings, data_dir=data_dir)


def question(example: Example) -> str:
    return example.prompt[len(example.prompt) - example.question_chars :]


@pytest.mark.parametrize("name", TASKS)
def test_the_sample_has_every_task_and_right_answers_full_marks(name: str) -> None:
    benchmark = build(name, "0.5k" if name == "longproc" else "all")
    assert benchmark.name == f"{name}_sample"
    seen = {}
    for example in benchmark.stream(None):
        seen.setdefault(example.task, []).append(example.id)
        assert 0 < example.question_chars < len(example.prompt)
        main = benchmark.main_metric(example.task)
        right = example.answers[0]
        if name == "longproc":
            right = f"I think:\n{right}"
        elif example.task in ("vt", "math_calc"):
            right = ", ".join(example.answers)
        elif name == "scbench":  # of a choice the letter comes last
            right = example.answers[-1]
        assert benchmark.score(example, right)[main] == pytest.approx(100), example
        wrong = benchmark.score(example, "zebra 999999 (E)")
        assert wrong[main] == 0, example
    assert tuple(seen) == TASKS[name]
    assert all(len(ids) == len(set(ids)) for ids in seen.values())


@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_built_that_is_not_wanted(name: str) -> None:
    benchmark = build(name, "0.5k" if name == "longproc" else "all")
    names: list[tuple[str, str]] = []

    def first_only(task: str, id: str) -> bool:
        names.append((task, id))
        return len(names) == 1

    (example,) = benchmark.stream(None, first_only)
    assert (example.task, example.id) == names[0] and len(names) >= len(TASKS[name])


def test_longbench2_asks_for_the_form_it_scores(tmp_path: Path) -> None:
    benchmark = build("longbench2", "easy")
    example = next(benchmark.stream(None))
    assert example.prompt.startswith("Please read the following text")
    assert question(example).startswith("</text>\n\nWhat is the correct answer to this question:")
    assert '"The correct answer is (letter)".' in example.prompt
    assert "(A) Kestrow\n(B) Orvale\n(C) Pirren\n(D) Varnley" in question(example)
    assert {e.task for e in benchmark.stream(None)} == {"easy_short", "easy_medium", "easy_long"}
    for text, score in {
        "The correct answer is (A).": 100,
        "**The correct answer is A**": 100,
        "The correct answer is (B), not The correct answer is A": 0,
        "A": 0,
    }.items():
        assert benchmark.score(example, text) == {"accuracy": score}
    (tmp_path / "0shot.txt").write_text("Read {this}: $DOC$\n$Q$ $C_A$ $C_B$ $C_C$ $C_D$?")
    own = next(build("longbench2", "easy", prompts=str(tmp_path / "0shot.txt")).stream(None))
    assert own.prompt.startswith("Read {this}: On the first day")
    assert question(own) == "Where did Ines sleep on the third day? Kestrow Orvale Pirren Varnley?"
    with pytest.raises(UserError, match=r"cannot read benchmark\.prompts"):
        build("longbench2", "easy", prompts=str(tmp_path / "none.txt"))


def test_infinitebench_prompts() -> None:
    asked = {e.task: e for e in build("infinitebench", "all").stream(None)}
    assert question(asked["code_run"]).startswith("Please give me the exact number of the return")
    assert "return value of func_3(5)" in asked["code_run"].prompt
    assert asked["math_find"].prompt.startswith("What is the largest number in the following list?")
    assert asked["longbook_choice_eng"].answers == ("B", "Pirren")
    assert asked["code_debug"].answers == ("B", "second")
    assert "\nC. Halden\n" in question(asked["longbook_choice_eng"])
    longest = {e.task: e.max_new_tokens for e in asked.values()}
    assert longest["passkey"] == 6 and longest["longbook_sum_eng"] == 1200


def test_scbench_turns_and_requests() -> None:
    turns = list(build("scbench", "qa_eng").stream(None))
    assert [e.id for e in turns] == ["001-1", "001-2", "001-3"]
    first, _, third = turns
    assert question(first) == "Question: Where did Ines sleep on the first day?\nAnswer:"
    assert question(third) == (
        "Question: Where did Ines sleep on the first day?\nAnswer: Orvale\n\n"
        "Question: And on the second?\nAnswer: Tunmere\n\n"
        "Question: Which river did she cross on the tenth?\nAnswer:"
    )
    # What is compressed ends with the first question; all else is read by the compressed cache.
    ends = [e.prompt[: len(e.prompt) - e.later_chars] for e in turns]
    assert ends == [first.prompt] * 3 and first.later_chars == 0
    requests = build("scbench", "qa_eng", mode="multi_request")
    assert requests.name == "scbench_requests_sample"
    alone = list(requests.stream(None))
    assert question(alone[2]).startswith("Question: Which river") and alone[2].later_chars is None
    assert len({e.prompt[: len(e.prompt) - e.question_chars] for e in [*turns, *alone]}) == 1
    mixed = {
        e.meta["kind"]: e.max_new_tokens for e in build("scbench", "repoqa_and_kv").stream(None)
    }
    assert mixed == {"repoqa": 1024, "kv": 80}
    with pytest.raises(UserError, match="mode='single'"):
        build("scbench", "kv", mode="single")


def test_longproc_prompts() -> None:
    asked = {e.task: e for e in build("longproc", "0.5k").stream(None) if e.id == "001"}
    assert {e.max_new_tokens for e in asked.values()} == {1024}
    shorter = build("longproc", "countdown_0.5k", max_new_tokens=512)
    assert next(iter(shorter.stream(None))).max_new_tokens == 512
    countdown = asked["countdown_0.5k"]
    assert question(countdown) == "Numbers: [5, 4, 3, 2]\nTarget: 14"
    assert countdown.prompt.count("<Search Procedure>\n") == 2  # worked, and never its own
    assert "Initial number set: [5, 4, 3, 2]" not in countdown.prompt
    route = asked["path_traversal_0.5k"]
    assert question(route).startswith("Now find the route from Orvale to ")
    assert question(asked["tom_tracking_0.5k"]) == "Question: Where does Nora believe the cup is?"
    assert "{(" not in asked["tom_tracking_0.5k"].prompt


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("longbench2", "data.jsonl", '{"_id": "1"}\n', r"line 1 has no difficulty"),
        ("infinitebench", "passkey.jsonl", '{"id": 1, "context": "c"}\n', "line 1 has no input"),
        ("scbench", "scbench_kv.jsonl", '{"multi_turns": []}\n', "line 1 has no context"),
        (
            "scbench",
            "scbench_kv.jsonl",
            '{"context": "c", "multi_turns": [{"input": "q"}]}\n',
            "no answer in turn 1",
        ),
        ("longproc", "countdown_0.5k.json", '[{"nums": []}]', "row 1 has no target"),
        ("longproc", "countdown_0.5k.json", "{", r"cannot read .*countdown_0\.5k\.json"),
        ("longproc", "countdown_0.5k.json", "{}", "no list of rows"),
    ],
)
def test_files_without_their_fields(
    name: str, file: str, content: str, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(SAMPLES / name, folder)
    (folder / file).write_text(content)
    task = {"longbench2": "all", "infinitebench": "passkey", "scbench": "kv"}
    benchmark = build(name, task.get(name, "countdown_0.5k"), tmp_path)
    assert benchmark.name == name  # the user's own data are no sample
    with pytest.raises(UserError, match=message) as refused:
        list(benchmark.stream(None))
    assert "\n" not in str(refused.value)


def test_longproc_needs_the_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "longproc"
    shutil.copytree(SAMPLES / "longproc", folder)
    (folder / "countdown_prompts.yaml").write_text("USER_PROMPT: no {such} name, {nums}")
    with pytest.raises(UserError, match="cannot be used"):
        next(build("longproc", "countdown_0.5k", tmp_path).stream(None))


def test_all_is_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scbench").mkdir()
    row = {"context": "c", "multi_turns": [{"input": "q", "answer": "a"}]}
    (tmp_path / "scbench" / "scbench_kv.jsonl").write_text(json.dumps(row) + "\n")
    assert build("scbench", None, tmp_path).chosen == ["kv"]
    assert "not asked: scbench_prefix_suffix.jsonl" in caplog.text
    with pytest.raises(UserError, match=r"scbench_vt\.jsonl"):
        build("scbench", "vt", tmp_path)
