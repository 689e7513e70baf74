"""LongBench: official prompts, every task of the sample from row to score, and a whole run."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from headkv.__main__ import run
from headkv.benchmarks import longbench, rows
from headkv.benchmarks.longbench import BY_LENGTH, CHINESE, ENGLISH, QA6, LongBench, bucket
from headkv.benchmarks.longbench_prompts import load_prompt, longbench_prompt
from headkv.config import ROOT
from headkv.downloads import wheels as fetching
from headkv.errors import UserError
from headkv.models.loading import model_folder
from headkv.models.spec import load_spec

SAMPLES = ROOT / "data" / "samples"  # as a data_dir: the sample is then taken for the benchmark
ROW = {
    "input": "Who?",
    "context": "One {input} two.",
    "answers": ["Ann"],
    "length": 3999,
    "dataset": "qasper",
    "language": "en",
    "all_classes": None,
    "_id": "abc",
}


def write(folder: Path, task: str, *rows: object) -> Path:
    path = folder / "longbench" / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def official(folder: Path, tasks: tuple[str, ...], longest: int) -> Path:
    """LongBench's two files of prompts and lengths, with short answers."""
    folder.mkdir()
    prompts = {task: load_prompt(task).text for task in tasks}
    (folder / "dataset2prompt.json").write_text(json.dumps(prompts))
    (folder / "dataset2maxlen.json").write_text(json.dumps(dict.fromkeys(tasks, longest)))
    return folder


def test_the_prompts_are_the_official_ones() -> None:
    """The digest was taken when they equalled LongBench's dataset2prompt.json, blanks included."""
    texts = {task: load_prompt(task).text for task in sorted((*ENGLISH, *CHINESE))}
    found = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    assert found[:16] == "bb89f011861ff65f"
    assert sum(load_prompt(task).max_new_tokens for task in texts) == 3168


def test_a_prompt_is_filled_once() -> None:
    filled = longbench_prompt("multifieldqa_en_e", ROW)
    assert filled.startswith("Read the following text and answer briefly.\n\nOne {input} two.\n\n")
    assert filled.endswith("\n\nQuestion: Who?\nAnswer:")


def test_prompts_of_the_users_own(tmp_path: Path) -> None:
    folder = official(tmp_path / "config", ("qasper",), 7)
    (folder / "dataset2prompt.json").write_text(
        '{"qasper": "{input} {context}.", "trec": "{input}"}'
    )
    data = write(tmp_path, "qasper", ROW)
    (example,) = LongBench("qasper", "corrected", str(folder), data).examples(None)
    assert (example.prompt, example.question_chars) == ("Who? One {input} two..", 1)
    assert example.max_new_tokens == 7
    for task, words in (("musique", "no usable entry for musique"), ("trec", "no usable entry")):
        with pytest.raises(UserError, match=words):
            load_prompt(task, folder)
    (folder / "dataset2maxlen.json").write_text('{"trec": 7}')
    with pytest.raises(UserError, match="where the context goes"):
        load_prompt("trec", folder)


def test_no_wheel_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "cache_dir", lambda: tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    load_prompt.cache_clear()
    with pytest.raises(UserError, match=r"lm-eval==0\.4\.13.*benchmark\.prompts=") as raised:
        load_prompt("qasper")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("task", [*ENGLISH, *CHINESE, *BY_LENGTH])
def test_every_task_from_row_to_score(task: str) -> None:
    benchmark = LongBench(task, "corrected", None, SAMPLES)
    rows = [json.loads(line) for line in (SAMPLES / "longbench" / f"{task}.jsonl").open()]
    examples = benchmark.examples(None)
    assert [example.id for example in examples] == [row["_id"] for row in rows]
    for example, row in zip(examples, rows, strict=True):
        assert example.prompt == longbench_prompt(task, row)
        assert example.prompt[: -example.question_chars].endswith(row["context"])
        metric = benchmark.main_metric(task)
        best = max(benchmark.score(example, a)[metric] for a in row["answers"])
        assert best == pytest.approx(100)
        assert benchmark.score(example, "")[metric] == 0
        assert ("bucket" in example.meta) == task.endswith("_e")


def test_both_protocols_score_every_task() -> None:
    for example in (benchmark := LongBench("all", "paper", None, SAMPLES)).examples(None):
        assert (
            benchmark.score(example, example.answers[0])[benchmark.main_metric(example.task)] > 50
        )


def test_sets() -> None:
    benchmark = LongBench(["qa6", "lsht", "qasper"], "corrected", None, SAMPLES)
    assert benchmark.chosen == [*QA6, "lsht"]
    sizes = {name: len(tasks) for name, tasks in benchmark.sets.items()}
    assert sizes == {"qa6": 6, "en16": 16, "zh": 5, "e": 13, "all": 21}
    assert len(benchmark.tasks) == 34


def test_what_is_no_users_turn() -> None:
    benchmark = LongBench("all", "corrected", None, SAMPLES)
    plain = {task for task in benchmark.tasks if not benchmark.uses_chat_template(task)}
    fewshot = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    assert plain == fewshot | {f"{task}_e" for task in fewshot - {"lsht"}}
    stops = {example.task for example in benchmark.examples(None) if example.stop == ("\n",)}
    assert stops == {"samsum"}


def test_buckets(tmp_path: Path) -> None:
    assert [bucket(n) for n in (0, 3999, 4000, 7999, 8000)] == [
        "0-4k",
        "0-4k",
        "4-8k",
        "4-8k",
        "8k+",
    ]
    data = write(tmp_path, "qasper_e", ROW, {**ROW, "_id": "d", "length": 8000})
    examples = LongBench("qasper_e", "corrected", None, data).examples(None)
    assert [example.meta["bucket"] for example in examples] == ["0-4k", "8k+"]
    assert examples[0].meta["length"] == 3999


def test_ids_are_unique(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "_id"}
    data = write(tmp_path, "qasper", ROW, ROW, bare)
    examples = LongBench("qasper", "corrected", None, data).examples(None)
    assert [example.id for example in examples] == ["abc", "line-2", "line-3"]


def test_part_of_the_tasks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path, "qasper", ROW)
    benchmark = LongBench(None, "corrected", None, data)
    assert benchmark.chosen == ["qasper"] and benchmark.name == "longbench"
    said = caplog.text
    assert "narrativeqa, multifieldqa_en" in said and "qasper" not in said.split(":", 1)[1]
    for wanted in ("narrativeqa", "qa6"):
        with pytest.raises(UserError, match=r"narrativeqa.* under data_dir="):
            LongBench(wanted, "corrected", None, data)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": "Ann"},
        {"answers": []},
        {"context": None},
        {"length": "9"},
        {"all_classes": "Ann"},
    ],
)
def test_a_row_of_another_schema_is_named(change: dict[str, object], tmp_path: Path) -> None:
    data = write(tmp_path, "qasper", ROW, ROW | change)
    rows = LongBench("qasper", "corrected", None, data).stream(None)
    assert next(rows).answers == ("Ann",)  # the file is read as examples are taken
    with pytest.raises(UserError, match=r"qasper\.jsonl line 2 is no row of LongBench"):
        next(rows)


def test_the_archive_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qasper.jsonl", json.dumps(ROW))
        archive.writestr("data/notes.txt", "no")
    monkeypatch.setattr(longbench, "hub_file", lambda repo, name: tmp_path / name)
    (tmp_path / "out").mkdir()
    longbench.fetch(tmp_path / "out", ["qasper.jsonl"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["qasper.jsonl"]
    (tmp_path / "data.zip").write_text("<html>")
    with pytest.raises(UserError, match=r"data\.zip is broken"):
        longbench.fetch(tmp_path / "out", ["qasper.jsonl"])


def test_the_sample_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(longbench, "fetch", None)
    assert LongBench("qasper", "corrected", None, None).name == "longbench_sample"


def test_a_run_over_every_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 21 tasks on a tiny random model with a real tokenizer: no data, no network, no wheel."""
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(model_folder(load_spec("smollm2_135m")))
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompts = official(tmp_path / "config", (*ENGLISH, *CHINESE), 4)
    results = tmp_path / "results"
    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["run_longbench.py"])
    settings = ["method=[fullkv,snapkv]", "kv_size=128", "limit=1", f"model.path={folder}"]
    settings += ["model.max_prompt_tokens=600", "fidelity=false"]
    run("longbench", [*settings, f"benchmark.prompts={prompts}", f"output_dir={results}"])
    assert "SAMPLE ONLY" in capsys.readouterr().err
    paths = sorted(results.glob("longbench_sample/*/snapkv/128/*.jsonl"))
    assert sorted(path.stem for path in paths) == sorted((*ENGLISH, *CHINESE))
    for path in paths:
        (row,) = map(json.loads, path.open())
        assert row["kept_tokens"] == 128 * 2 * 2 < row["prompt_tokens"] * 2 * 2
        assert row["new_tokens"] <= 4 and row["score"] in row["scores"].values()
