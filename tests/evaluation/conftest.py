"""What the tests of runs share: a tiny benchmark and model, and the scripts as called."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headkv.__main__ import run
from headkv.benchmarks.base import Benchmark
from headkv.config import ROOT, load_group
from headkv.evaluation import assembly
from headkv.evaluation.cell_files import Run
from headkv.evaluation.evaluator import Evaluator
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Outcome, Runner
from headkv.evaluation.settings import Settings
from headkv.models.loaded import Loaded
from headkv.records import Example

Rows = dict[str, list[dict[str, Any]]]


class Words(Benchmark):
    """Prompts of many lengths, the longest not last: 50 answers under five cells."""

    name = "words"
    tasks = ("echo", "count")

    def examples(self, tokenizer: Any) -> list[Example]:
        return [
            Example(
                id=f"{task}-{number}",
                task=task,
                prompt="lorem ipsum " * (number * 5 % 7 + 4),
                answers=(f"word {number}",),
                max_new_tokens=5 if task == "echo" else 7,
                question_chars=6,
                meta={"number": number},
            )
            for number in range(5)
            for task in self.tasks
        ]

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"length": float(len(prediction))}

    def main_metric(self, task: str) -> str:
        return "length"

    def uses_chat_template(self, task: str) -> bool:
        return task == "echo"


@pytest.fixture(scope="module", autouse=True)
def loads_once(load_once: Callable[..., Any]) -> Iterator[None]:
    """All runs in this process share one embedded model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "load_model", load_once)
        yield


@pytest.fixture(scope="session")
def words() -> type[Words]:
    """The benchmark's class, to be patched."""
    return Words


@pytest.fixture(scope="session")
def loaded(byte_tokenizer: Callable[..., Any], chatml: str) -> Loaded:
    """A Llama of two layers with random weights."""
    import headkv.cache.attention  # noqa: F401  (registers attn_implementation="headkv")

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(chatml)
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        vocab_size=len(tokenizer),
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="headkv").eval()
    return Loaded("tiny", model, tokenizer, "weights", 500)


@pytest.fixture(scope="session")
def cells(make_method: Callable[..., Any]) -> list[Cell]:
    """Five cells, the last of another granularity."""
    methods = {
        "snapkv": make_method("snapkv", 48),
        "adakv": make_method("adakv", 56),
        "fullkv": make_method("fullkv", None),
        "headkv_r2": make_method("headkv_r2", 56, layers=2, heads=4),
        "wide": make_method("snapkv", 48, granularity="query_head"),
    }
    return [Cell(name, method, {"name": name}) for name, method in methods.items()]


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """Settings of a run without a model of its own."""

    def make_settings(folder: Path, **changes: object) -> Settings:
        config = {
            "model": {},
            "methods": {"fullkv": {}},
            "kv_size": 48,
            "protocol": load_group("protocol", "corrected"),
            "output_dir": str(folder),
        }
        return Settings.parse(config | changes)

    return make_settings


@pytest.fixture(scope="session")
def make_runner(
    loaded: Loaded, cells: list[Cell], make_settings: Callable[..., Settings]
) -> Callable[..., Runner]:
    """A runner of the tiny benchmark on the tiny model; keywords are settings."""

    def make_runner(folder: Path, **changes: object) -> Runner:
        settings = make_settings(folder, **changes)
        asked = [replace(each, compress_on=on) for each in cells for on in settings.compress_on]
        return Runner(Run(settings, Words(), loaded, asked))

    return make_runner


@pytest.fixture(scope="session")
def run_words(make_runner: Callable[..., Runner]) -> Callable[..., Outcome]:
    """Runs the tiny benchmark; keywords are settings."""
    return lambda folder, **changes: make_runner(folder, **changes).run(Words.tasks)


@pytest.fixture(scope="session")
def rows() -> Callable[..., Rows]:
    """Rows by file and id, without times and without whatever else is named."""

    def rows(folder: Path, *without: str) -> Rows:
        return {
            str(path.relative_to(folder)): [
                {key: value for key, value in row.items() if key not in ("seconds", *without)}
                for row in sorted(map(json.loads, path.open()), key=lambda row: row["id"])
            ]
            for path in sorted(folder.rglob("*.jsonl"))
        }

    return rows


@pytest.fixture(scope="session")
def same() -> Callable[[Rows, Rows], bool]:
    """Whether rows are equal: fidelity to rounding, everything else exactly."""

    def plain(found: Rows) -> Rows:
        return {path: [row | {"fidelity": None} for row in lines] for path, lines in found.items()}

    def same(got: Rows, wanted: Rows) -> bool:
        measured = [
            [row["fidelity"] for lines in found.values() for row in lines]
            for found in (got, wanted)
        ]
        close = all(a == pytest.approx(b, abs=3e-5) for a, b in zip(*measured, strict=True))
        return close and plain(got) == plain(wanted)

    return same


@pytest.fixture(scope="session")
def wanted(
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    tmp_path_factory: pytest.TempPathFactory,
) -> Rows:
    """The rows of one example and one cell at a time."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = run_words(folder, cells_per_batch=1)
    assert (outcome.answered, outcome.present, outcome.failed) == (50, 0, 0)
    return rows(folder)


@pytest.fixture
def watch_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Notes how many cells are decoded together; memory runs out where they do not fit."""

    def watch_batches(
        fits: Callable[[Any, Any], bool] = lambda prefilled, caches: True,
    ) -> list[int]:
        sizes: list[int] = []
        decode = Evaluator.decode

        def watching(self: Evaluator, batch: Any, costs: Any, caches: Any) -> Any:
            sizes.append(len(caches))
            if not fits(batch.prefilled, caches):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More")
            return decode(self, batch, costs, caches)

        monkeypatch.setattr(Evaluator, "decode", watching)
        return sizes

    return watch_batches


def _here(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a run in this process."""
    said, own, got = io.StringIO(), sys.argv, 0
    try:
        with contextlib.redirect_stderr(said):
            run("needle", arguments)
    except SystemExit as ended:
        got = int(ended.code or 0)
    finally:
        sys.argv = own
    return got, said.getvalue()


@pytest.fixture(scope="session")
def needle_script() -> Callable[..., str]:
    """Runs `run_needle.py` and returns what it printed on stderr.

    In a process of its own, as a user does, where `environment` is given; else in this one, which
    has loaded torch already.
    """

    def needle_script(*arguments: str, code: int = 0, **environment: str) -> str:
        if environment:
            done = subprocess.run(
                [sys.executable, "run_needle.py", *arguments],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            got, said = done.returncode, done.stderr
        else:
            got, said = _here(list(arguments))
        assert got == code, said
        return said

    return needle_script


@pytest.fixture
def needle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the needle benchmark in this process; raises SystemExit unless the exit code is 0."""
    monkeypatch.setattr(sys, "argv", ["run_needle.py"])
    return lambda *arguments: run("needle", list(arguments))
