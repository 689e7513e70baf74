"""RULER: what each task's text consists of, how long it is, and what is right."""

import json
import re
from collections import Counter
from math import floor, pi
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headkv.benchmarks import ruler
from headkv.benchmarks.ruler import NEW_TOKENS, SYNTHETIC, Ruler
from headkv.benchmarks.ruler_texts import NOISE
from headkv.benchmarks.sizes import largest_size
from headkv.errors import UserError
from headkv.metrics.ruler import all_found, any_found
from headkv.models.prompts import encode
from headkv.records import Example

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

LENGTH = 12_000  # of bytes, each a token
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def tokenizer(
    byte_tokenizer: "Callable[..., PreTrainedTokenizerFast]", chatml: str
) -> "PreTrainedTokenizerFast":
    return byte_tokenizer(chatml)


@pytest.fixture(scope="module")
def built(tokenizer: "PreTrainedTokenizerFast") -> dict[str, list[Example]]:
    benchmark = Ruler(lengths=LENGTH, examples_per_task=3)
    found: dict[str, list[Example]] = {}
    for example in benchmark.stream(tokenizer):
        found.setdefault(example.task.removesuffix(f"_{LENGTH}"), []).append(example)
    return found


def parts(example: Example) -> tuple[str, str]:
    """Context and question."""
    cut = len(example.prompt) - example.question_chars
    return example.prompt[:cut], example.prompt[cut:]


def test_eleven_tasks_need_no_data(built: dict[str, list[Example]]) -> None:
    assert set(built) == set(SYNTHETIC) and len(built) == 11
    assert all([e.id for e in each] == ["000", "001", "002"] for each in built.values())
    assert all(len({e.prompt for e in each}) == 3 for each in built.values())


@pytest.mark.parametrize("task", SYNTHETIC)
def test_the_length_is_met_within_one_per_cent(
    task: str, built: dict[str, list[Example]], tokenizer: "PreTrainedTokenizerFast"
) -> None:
    for example in built[task]:
        prompt = encode(
            tokenizer,
            example.prompt,
            chat_template=True,
            max_prompt_tokens=None,
            question_chars=example.question_chars,
            answer_prefix=example.answer_prefix,
        )
        used = len(prompt.input_ids) + example.max_new_tokens
        assert 0.99 * LENGTH <= used <= LENGTH
        assert example.max_new_tokens == NEW_TOKENS[task] and example.meta["length"] == LENGTH
        # The answer begins in the assistant's turn; the question lies behind the context.
        text = tokenizer.decode(prompt.input_ids)
        assert text.endswith(f"<|im_start|>assistant\n{example.answer_prefix}")
        lead = tokenizer.decode(prompt.input_ids[-prompt.question_tokens :])
        assert lead.startswith(parts(example)[1])


# Number of needles, keys, values of one key, queries; what a value looks like; what is around.
NIAH = {
    "niah_single_1": (1, 1, r"\d{7}", "noise"),
    "niah_single_2": (1, 1, r"\d{7}", "essay"),
    "niah_single_3": (1, 1, UUID, "essay"),
    "niah_multikey_1": (4, 1, r"\d{7}", "essay"),
    "niah_multikey_2": (None, 1, r"\d{7}", "needle"),
    "niah_multikey_3": (None, 1, UUID, "needle"),
    "niah_multivalue": (4, 4, r"\d{7}", "essay"),
    "niah_multiquery": (4, 4, r"\d{7}", "essay"),
}


@pytest.mark.parametrize("task", NIAH)
def test_needles(task: str, built: dict[str, list[Example]]) -> None:
    count, wanted, form, haystack = NIAH[task]
    for example in built[task]:
        context, question = parts(example)
        found = NEEDLE.findall(context)
        assert count is None or len(found) == count
        kinds, keys, values = zip(*found, strict=True)
        assert set(kinds) == {"uuids" if form == UUID else "numbers"}
        assert all(re.fullmatch(form, value) for value in values)
        assert len(set(keys)) == (1 if task == "niah_multivalue" else len(found))
        assert len(example.answers) == wanted == len(set(example.answers))
        # Right are the values of the keys that are asked for, and nothing else.
        asked = {key for key in keys if key in question}
        assert {value for _, key, value in found if key in asked} == set(example.answers)
        assert len(asked) == (4 if task == "niah_multiquery" else 1)
        assert all(key in example.answer_prefix for key in asked)
        plural = wanted > 1
        assert example.answer_prefix.endswith("are" if plural else "is")
        assert context.startswith("Some special magic" if plural else "A special magic")
        assert question.startswith("What are all the" if plural else "What is the")
        form_of_key = UUID if task == "niah_multikey_3" else r"\D+-\D+"
        assert all(re.fullmatch(form_of_key, key) for key in keys)
        rest = NEEDLE.sub("", context.partition("\n")[2])
        lines = {line for line in rest.split("\n") if line}
        if haystack == "noise":
            assert " ".join(NOISE) in lines
            assert all(" ".join(NOISE).startswith(line) for line in lines)
        elif haystack == "needle":  # of which the last may break off
            assert all("One of the special magic".startswith(line[:24]) for line in lines)
            assert len(lines) <= 1 and len(found) > 30
        else:
            assert len(lines) == 1 and "One of the special magic" not in rest
        depths = example.meta["depths"]
        assert len(depths) == len(set(depths)) and all(0 <= depth <= 1 for depth in depths)


def test_needles_stand_between_sentences(built: dict[str, list[Example]]) -> None:
    for example in built["niah_multiquery"]:
        context = parts(example)[0].partition("\n")[2]
        for match in NEEDLE.finditer(context):
            before = context[: match.start()].rstrip()
            assert not before or before[-1] in ".!?"


def test_needles_lie_at_all_depths(tokenizer: "PreTrainedTokenizerFast") -> None:
    benchmark = Ruler("niah_single_2", 12_000, 60)
    depths = [example.meta["depths"][0] for example in benchmark.stream(tokenizer)]
    assert min(depths) < 0.1 and max(depths) > 0.9 and len(set(depths)) > 20
    # 40 even depths: every one is a sentence that 0, 1/39 ... of all sentences come before.
    assert 0.35 < sum(depths) / len(depths) < 0.65


def test_variables(built: dict[str, list[Example]]) -> None:
    for example in built["vt"]:
        context, question = parts(example)
        worked, own = context[: example.meta["worked"]], context[example.meta["worked"] :]
        chain = re.findall(r"^VAR ([A-Z]{5}) = (?:VAR )?(\S+)$", own, re.M)
        names, sources = zip(*chain, strict=True)
        assert names == example.answers and len(set(names)) == 5
        assert sources[1:] == names[:-1] and re.fullmatch(r"\d{5}", sources[0])
        assert f"value {sources[0]} in" in question
        assert f"5 variables are assigned the value {sources[0]}" in example.answer_prefix
        solved = re.findall(r"^VAR ([A-Z]{3}) = (?:VAR )?(\S+)$", worked, re.M)
        assert len(solved) == 5 and worked.rstrip().endswith(" ".join(name for name, _ in solved))
        assert own.startswith("Memorize and track") and worked.startswith("Memorize and track")


@pytest.mark.parametrize(
    ("length", "often", "seldom", "worked"), [(12_000, 30, 3, (10, 3)), (4000, 6, 1, (3, 1))]
)
def test_common_words(
    length: int,
    often: int,
    seldom: int,
    worked: tuple[int, int],
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    for example in Ruler("cwe", length, 2).stream(tokenizer):
        _, first, second = example.prompt.split("Below is a numbered list")
        listed = [
            re.findall(r"(\d+)\. (.+?)(?= \d+\. |$)", text.split("\n")[1])
            for text in (first, second)
        ]
        for pairs in listed:
            assert [int(number) for number, _ in pairs] == list(range(1, len(pairs) + 1))
        solved, counts = (Counter(word for _, word in pairs) for pairs in listed)
        common = [word for word, _ in counts.most_common(10)]
        assert set(common) == set(example.answers) and len(example.answers) == 10
        assert sorted(set(counts.values())) == [seldom, often]
        assert sorted(set(solved.values())) == sorted(worked[::-1])
        assert len(solved) == (20 if length < 4096 else 40)
        answer = first[first.index("list are:") :]
        assert all(f". {word}" in answer for word, _ in solved.most_common(10))


def test_frequent_words(built: dict[str, list[Example]]) -> None:
    for example in built["fwe"]:
        text = parts(example)[0].partition("coded words. ")[2].partition("\n")[0]
        counts = Counter(text.split()).most_common()
        assert counts[0][0] == "..."
        assert [word for word, _ in counts[1:4]] == list(example.answers)
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in counts[1:])
        size = next(n for n in range(counts[0][1], 10**6) if floor(n * 6 / pi**2) == counts[0][1])
        sizes = range(size, size + 3)
        vocabulary = (LENGTH - 50) // 50
        assert any(
            [floor(n / (pi**2 / 6) / k**2) for k in range(1, len(counts) + 1)]
            == [count for _, count in counts]
            and (len(counts) == vocabulary or floor(n * 6 / pi**2 / (len(counts) + 1) ** 2) == 0)
            for n in sizes
        )


def test_an_example_is_the_same_whatever_else_is_built(
    tokenizer: "PreTrainedTokenizerFast", built: dict[str, list[Example]]
) -> None:
    asked: list[tuple[str, str]] = []

    def only_the_last(task: str, id: str) -> bool:
        asked.append((task, id))
        return id == "002"

    benchmark = Ruler(["cwe", "niah_multikey_2"], [LENGTH, 9000], 3)
    (cwe, other, needles, _) = benchmark.stream(tokenizer, only_the_last)
    assert [cwe, needles] == [built["cwe"][2], built["niah_multikey_2"][2]]
    assert other.task == "cwe_9000" and len(asked) == 12
    moved = next(Ruler("cwe", LENGTH, 3, seed=1).stream(tokenizer))
    assert moved.answers != built["cwe"][0].answers


def test_names_of_tasks() -> None:
    benchmark = Ruler(lengths=[512, 1024])
    assert benchmark.sets["niah"] == tuple(f"{t}_{n}" for n in (512, 1024) for t in NIAH)
    assert len(benchmark.sets["512"]) == 13 and benchmark.longest == 1024
    assert Ruler(512, [512, 1024], data_dir=None).longest == 512
    assert benchmark.chosen == [f"{t}_{n}" for n in (512, 1024) for t in SYNTHETIC]


def test_documents(tokenizer: "PreTrainedTokenizerFast", monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repo: str, name: str) -> Path:
        raise UserError("the hub does not answer", allowed="-", do="-")

    monkeypatch.setattr("headkv.benchmarks.ruler_documents.hub_file", unreachable)
    benchmark = Ruler("qa", 6000, 4)
    assert benchmark.name == "ruler_sample"
    for example in benchmark.stream(tokenizer):
        context, question = parts(example)
        found = re.findall(r"^Document (\d+):$", context, re.M)
        assert [int(number) for number in found] == list(range(1, len(found) + 1))
        assert any(answer in context for answer in example.answers)
        assert question.startswith("Answer the question based on") and len(found) > 10
        assert example.answer_prefix == "Answer:"
        assert benchmark.score(example, f"It is {example.answers[0].upper()}.") == {
            "string_match_part": 100
        }


@pytest.mark.parametrize("content", ["[]", '{"data": [{"paragraphs": [{"qas": []}]}]}', "{"])
def test_a_file_without_its_fields(
    content: str, tmp_path: Path, tokenizer: "PreTrainedTokenizerFast"
) -> None:
    (tmp_path / "ruler").mkdir()
    (tmp_path / "ruler" / "squad.json").write_text(content)
    benchmark = Ruler("qa_1", 6000, 4, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"squad.json cannot be used"):
        list(benchmark.stream(tokenizer))


def test_data_of_its_own_are_part_of_all(tmp_path: Path) -> None:
    (tmp_path / "ruler").mkdir()
    rows = [{"question": "Q?", "answer": "A", "context": [["T", ["A", " B"]]]}]
    (tmp_path / "ruler" / "hotpotqa.json").write_text(json.dumps(rows))
    benchmark = Ruler(data_dir=tmp_path)
    assert [name for name in benchmark.chosen if "qa" in name] == ["qa_2_4096"]


@pytest.mark.parametrize(
    ("given", "message"),
    [({"lengths": 100}, "lengths=100"), ({"task": "vt_9"}, "vt_9"), ({"examples_per_task": 0}, "")],
)
def test_bad_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Ruler(**given)


def test_too_short(tokenizer: "PreTrainedTokenizerFast") -> None:
    with pytest.raises(UserError, match="cwe_300 does not fit into 300 tokens"):
        next(ruler.Ruler("cwe", 300).stream(tokenizer))


def test_scores() -> None:
    assert all_found("it is 123 and\x00 456", ["123", "456", "789", "0"]) == 0.5
    assert all_found(" the VALUE is AbC-d\n", ["aBc-D"]) == 1
    assert all_found("1234567", ["234"]) == 1  # RULER's: anywhere
    assert any_found("Paris", ["London", "paris"]) == 1 and any_found("", ["x"]) == 0
    assert all_found("a\tb", ["a\nb"]) == 1  # control characters are newlines


@pytest.mark.parametrize("bound", [7, 10, 99, 1000, 12_345])
@pytest.mark.parametrize("guess", [1, 500, 10**6])
def test_the_largest_size(bound: int, guess: int) -> None:
    calls = []

    def tokens(size: int) -> int:
        calls.append(size)
        return 7 + size * 3 + size // 10

    size, used = largest_size(tokens, bound, 0, guess)
    best = max(n for n in range(5000) if 7 + n * 3 + n // 10 <= bound)
    assert used == 7 + size * 3 + size // 10 <= bound
    assert size == best or bound - used <= 0.002 * bound
    assert len(calls) < 40
    assert largest_size(tokens, 6, 0, guess) is None
