"""What users and attackers tried, one case for each mend, in a process that has loaded torch once.

Refused is: exit code 2, one line below 300 characters on stderr, and nothing written.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headkv import CompressedCache, build_method
from headkv.__main__ import main
from headkv.benchmarks.babilong import BabiLong
from headkv.config import compose, plugins, target_of
from headkv.errors import UserError
from headkv.evaluation import tuning
from headkv.kernels.ragged import Ragged
from headkv.methods.allocators.uniform import UniformAllocator
from headkv.methods.entries.base import Entries
from headkv.methods.method import Method
from headkv.methods.scorers.base import Scorer
from headkv.methods.scorers.key_norm import KeyNormScorer
from headkv.results.__main__ import main as results
from headkv.storage import atomic
from headkv.storage.locks import open_locked

SMALL = ["task=single", "benchmark.lengths=[256]", "benchmark.depths=[0.5]", "benchmark.per_cell=1"]
CELLS = ["method=[fullkv,snapkv]", "kv_size=48", "fidelity=false"]


@pytest.fixture(scope="module")
def model(needle_grid: Any) -> str:
    """The setting that names the tiny model."""
    return next(each for each in needle_grid.arguments if each.startswith("model.path="))


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Exit code and stderr of a `headkv` command in this process."""
    monkeypatch.setattr(sys, "argv", ["headkv"])

    def call(*words: object) -> tuple[int, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def refused(call: Callable[..., tuple[int, str]]) -> Callable[..., str]:
    """The one line of a command that is refused."""

    def refused(*words: object) -> str:
        code, said = call(*words)
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert code == 2 and len(errors) == 1 and "Traceback" not in said, said
        assert len(errors[0]) < 300, errors[0]
        return errors[0]

    return refused


def copied(model: str, folder: Path) -> Path:
    return Path(shutil.copytree(model.removeprefix("model.path="), folder / "model"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["benchmark.lengths=[20000]"], "longer than the"),
        (["kv_size=9"], "kv_size=9 does not exceed"),
        (["kv_size=62", "methods.snapkv.scorer.window_size=62"], ""),
    ],
)
def test_what_cannot_be_asked_writes_nothing(
    settings: list[str], words: str, model: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert words in refused("needle", model, *SMALL, *CELLS, *settings, f"output_dir={tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("template", [None, "{{ 1 / 0 }}"])
def test_a_template_that_fails_writes_nothing(
    template: str | None, model: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = copied(model, tmp_path)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    output = tmp_path / "results"
    assert "template" in refused(
        "needle", f"model.path={folder}", *SMALL, *CELLS, f"output_dir={output}"
    )
    assert not output.exists()


def test_babilong_is_not_cut_either(make_runner: Callable[..., Any], tmp_path: Path) -> None:
    assert not BabiLong.truncates
    runner = make_runner(tmp_path)
    example = runner.examples(["echo"])[0]
    from dataclasses import replace

    long = replace(example, prompt="word " * 2000)
    assert runner.encoder.encode(long).prompt.truncated
    runner.benchmark.truncates = False
    with pytest.raises(UserError, match="is longer than the 500 tokens that tiny takes"):
        runner.encoder.encode(long)


def test_nan_weights_make_failed_rows(
    model: str, tmp_path: Path, call: Callable[..., tuple[int, str]]
) -> None:
    folder = copied(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, said = call(
        "needle", f"model.path={folder}", *SMALL, *CELLS, f"output_dir={tmp_path / 'results'}"
    )
    assert code == 1 and "2 answers failed" in said and "Traceback" not in said
    files = list((tmp_path / "results").glob("needle/*/*/*/*.jsonl"))
    rows = [json.loads(line) for path in files for line in path.open()]
    assert len(rows) == 2 and all("NaN" in row["error"] for row in rows)


@pytest.mark.parametrize("what", ["logits", "values"])
def test_one_example_of_a_batch_that_is_not_finite_fails_alone(
    what: str,
    make_runner: Callable[..., Any],
    words: Any,
    rows: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner(tmp_path, batch_size=3)
    prefill = runner.evaluator.prefill

    def poisoned(examples: Any, *others: Any) -> Any:
        batch = prefill(examples, *others)
        for row, each in enumerate(examples):
            if each.example.id == "echo-2":
                if what == "logits":
                    batch.prefilled.logits[row] = float("inf")
                else:
                    getattr(batch.prefilled.layers[1], what)[row, 0, -3] = float("nan")
        return batch

    monkeypatch.setattr(runner.evaluator, "prefill", poisoned)
    outcome = runner.run(words.tasks)
    assert (outcome.answered, outcome.failed) == (45, 5)
    failed = [row["id"] for lines in rows(tmp_path).values() for row in lines if "error" in row]
    assert failed == ["echo-2"] * 5


@pytest.mark.parametrize("kind", ["retrieval", "semantic"])
def test_heads_are_not_measured_beyond_the_context(
    kind: str, model: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    said = refused(
        "heads", model, f"kind={kind}", "tests.lengths=[20000]", f"output={tmp_path}/s.json"
    )
    assert "whose context is 2048" in said and not list(tmp_path.iterdir())


CODE = ["os.system", "builtins.exec", "subprocess.Popen", "antigravity.geohash", "shutil.rmtree"]


@pytest.fixture
def recorded(model: str, tmp_path: Path) -> Callable[..., Path]:
    """The folder of a run whose record somebody changed."""

    def recorded(change: Callable[[dict[str, Any]], object]) -> Path:
        config = compose("needle", [model, *SMALL, *CELLS])
        record: dict[str, Any] = {"command": ["run_needle.py"], "config": config}
        change(record)
        folder = tmp_path / "needle" / "tiny"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        return folder

    return recorded


@pytest.mark.parametrize(
    ("target", "place"),
    zip(CODE, ["benchmark", "method", "scorer", "allocator", "model"], strict=True),
)
def test_a_record_runs_nothing(
    target: str,
    place: str,
    recorded: Callable[..., Path],
    tmp_path: Path,
    call: Callable[..., tuple[int, str]],
) -> None:
    hostile = {"_target_": target, "command": f"touch {tmp_path}/run", "args": "touch run"}

    def change(record: dict[str, Any]) -> None:
        config = record["config"]
        if place == "method":
            config["methods"]["snapkv"] |= hostile
        elif place in ("scorer", "allocator"):
            config["methods"]["snapkv"][place] = hostile
        else:
            config[place] |= hostile

    folder = recorded(change)
    code, said = call("inspect", folder)
    assert code == 2 and said.count("error:") == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists() and "antigravity" not in sys.modules


@pytest.mark.parametrize("target", CODE[1:2])
def test_a_target_alone_is_dropped_for_the_name(
    target: str, recorded: Callable[..., Path], call: Callable[..., tuple[int, str]]
) -> None:
    folder = recorded(lambda record: record["config"]["benchmark"].update(_target_=target))
    code, said = call("inspect", folder)
    assert code == 0, said
    assert len(list((folder / "inspect").iterdir())) == 1


OWN = "# @package methods.mine\nscorer: {{_target_: {}}}\nallocator: uniform\n"


@pytest.mark.parametrize(
    "target",
    [
        *CODE[2:4],
        "nosuch_package.Mine",
        "own_broken.Mine",
        "headkv.methods.allocators.uniform.UniformAllocator",
        "headkv.methods.scorers.base.Scorer",
    ],
)
def test_an_own_yaml_names_scorers_where_a_scorer_is_wanted(
    target: str,
    model: str,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(OWN.format(target))
    (tmp_path / "own_broken.py").write_text("import nosuch_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["--config-dir", tmp_path / "conf", "method=[mine]", f"output_dir={tmp_path}/out"]
    said = refused("needle", *own, model, *SMALL, "kv_size=48")
    words = "own_broken fails" if "broken" in target else "is no class of kind Scorer"
    assert words in said, said
    assert "antigravity" not in sys.modules and not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
@pytest.mark.parametrize(
    "settings",
    [
        {"callbacks": {"x": {"_target_": "os.system", "command": "touch RUN"}}},
        {"job_logging": {"handlers": {"x": {"()": "os.system", "command": "touch RUN"}}}},
        {"job_logging": {"handlers": {"x": {"class": "subprocess.Popen", "args": "touch RUN"}}}},
    ],
)
def test_hydra_runs_nothing_that_a_yaml_names(
    settings: dict[str, Any], how: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = json.dumps({"hydra": settings}).replace("RUN", str(tmp_path / "run"))
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{text}\n")
    said = refused("needle", how.format(tmp_path / "conf"), "experiment=evil", "kv_size=abc")
    assert "Hydra would run" in said and not (tmp_path / "run").exists()


def test_an_own_yaml_names_a_scorer_of_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(OWN.format("own_scorers.Mine"))
    module = "from headkv.methods.scorers.key_norm import KeyNormScorer as Mine\n"
    (tmp_path / "own_scorers.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    target = {"_target_": "own_scorers.Mine"}
    with pytest.raises(UserError):
        target_of("mine", target, Scorer)
    plugins.trust(tmp_path)
    assert target_of("mine", target, Scorer) is KeyNormScorer


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(config=None),
        lambda record: record.update(config="text"),
        lambda record: record.update(command=None),
        lambda record: record["config"].update(methods=None),
        lambda record: record["config"].update(benchmark=None),
        lambda record: record["config"].update(benchmark=[1]),
        lambda record: record["config"].update(model=None),
        lambda record: record["config"].update(model={}),
        lambda record: record["config"].update(protocol=5),
        lambda record: record["config"].pop("kv_size"),
    ],
)
def test_odd_records_are_refused(
    change: Callable[[dict[str, Any]], object],
    recorded: Callable[..., Path],
    refused: Callable[..., str],
) -> None:
    refused("inspect", recorded(change))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing(
    code: int,
    model: str,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", full)
    for words in (
        ("needle", *SMALL, *CELLS, f"output_dir={tmp_path}/results"),
        ("heads", "tests.lengths=[96]", "tests.depths=1", f"output={tmp_path}/heads/s.json"),
    ):
        assert os.strerror(code) in refused(*words, model)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("taken", ["results", "results/needle/tiny/runs"])
def test_a_file_in_a_folders_place(
    taken: str, model: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    said = refused("needle", model, *SMALL, *CELLS, f"output_dir={tmp_path / 'results'}")
    assert "cannot write" in said


def test_odd_folders_stop_no_tool(
    tmp_path: Path, kinds: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = kinds["rows"].write(tmp_path)
    for odd in ("\u00b2", "0x10", "-1", "9" * 30):
        shutil.copytree(path.parent, path.parents[1] / odd)
    (path.parent / "folder.jsonl").mkdir()
    assert results(["ls", str(tmp_path)]) == 0
    assert results(["gc", str(tmp_path)]) == 0
    assert results(["verify", str(tmp_path)]) == 1
    assert "folder.jsonl: a folder where a result file is wanted" in capsys.readouterr().out


def test_an_unreadable_file_is_one_line(
    tmp_path: Path,
    kinds: dict[str, Any],
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds["rows"].write(tmp_path)

    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    for words in (("results", "ls"), ("results", "gc"), ("results", "verify")):
        assert "Permission denied" in refused(*words, tmp_path)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first = open_locked(path, "output=", "wait")
    with pytest.raises(UserError, match="another process is writing"):
        open_locked(path, "output=", "wait")
    path.unlink()  # as the end of a head-score run does
    other = open_locked(path, "output=", "wait")
    with pytest.raises(UserError, match="another process is writing"):
        open_locked(path, "output=", "wait")
    first.close()
    other.close()
    open_locked(path, "output=", "wait").close()


def test_choices_of_several_runs_at_once_are_all_kept(
    tmp_path: Path, make_method: Callable[..., Any]
) -> None:
    from headkv.evaluation.grid import Cell

    file = tmp_path / "chosen.json"

    def choose(size: int) -> None:
        method = make_method("headkv_r2", size, layers=2, heads=4)
        cells = tuning.candidates([Cell("headkv_r2", method, method.identity)])
        scores = [{"a": [float(index)]} for index in range(len(cells))]
        tuning.save_choices(file, cells, tuning.BETA, scores, [], {})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(choose, range(64, 72)))
    assert len(tuning._read(file)) == 8
    assert {choice["kv_size"] for choice in tuning._read(file).values()} == set(range(64, 72))


@dataclass(frozen=True, eq=False)
class OddScorer(KeyNormScorer):
    """Scores that nothing can be made of."""

    name = "odd"
    fault: str = ""

    def scores(self, evidence: Any, stored: int) -> Tensor:
        found = super().scores(evidence, stored)
        if self.fault == "shape":
            return found[:, 1:]
        return torch.full_like(found, float(self.fault))


@dataclass(frozen=True, eq=False)
class OddAllocator(UniformAllocator):
    """Budgets that are none."""

    name = "odd"
    factor: float = 2.0

    def budgets(self, room: Any) -> Tensor:
        return (super().budgets(room) * self.factor).long()


@dataclass(frozen=True, eq=False)
class OddEntries(Entries):
    """Entries that do not belong to what was kept."""

    name = "odd"
    fault: str = "fewer"

    def gather(self, evidence: Any, kept: Any) -> Ragged:
        found = super().gather(evidence, kept)
        if self.fault == "fewer":
            return Ragged(found.keys[:-1], found.values[:-1], found.counts)
        if self.fault == "narrow":
            return Ragged(found.keys[:, :-1], found.values, found.counts)
        return Ragged(found.keys * float("nan"), found.values, found.counts)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"scorer": OddScorer(fault="nan")}, "scorer odd gave scores that are not finite"),
        ({"scorer": OddScorer(fault="inf")}, "scorer odd gave scores that are not finite"),
        ({"scorer": OddScorer(fault="shape")}, "scorer odd gave scores of shape"),
        ({"allocator": OddAllocator(factor=2.0)}, "allocator odd gave"),
        ({"allocator": OddAllocator(factor=1000.0)}, "allocator odd gave"),
        ({"allocator": OddAllocator(factor=-1.0)}, "allocator odd gave"),
        ({"entries": OddEntries(fault="fewer")}, "entries odd gave"),
        ({"entries": OddEntries(fault="narrow")}, "entries odd gave"),
        ({"entries": OddEntries(fault="nan")}, "entries odd gave keys or values"),
    ],
)
def test_faults_of_own_parts_are_named(part: dict[str, Any], words: str, loaded: Any) -> None:
    parts = {"scorer": KeyNormScorer(), "allocator": UniformAllocator(), **part}
    method = Method(kv_size=32, name="mine", **parts)
    cache = CompressedCache(loaded.model.config, method)
    with pytest.raises(UserError, match=f"mine's {words}"):
        loaded.model(input_ids=torch.arange(3, 103)[None], past_key_values=cache)


@pytest.mark.parametrize("shape", [(5, 4), (2, 8), (1, 4), (2, 2), (0, 0), (2, 4, 1)])
@pytest.mark.parametrize("name", ["headkv_r", "headkv_r2"])
def test_head_scores_of_another_shape_are_refused(
    name: str, shape: tuple[int, ...], loaded: Any
) -> None:
    with pytest.raises(UserError, match="head scores"):
        method = build_method(name, kv_size=64, head_scores=torch.rand(shape))
        CompressedCache(loaded.model.config, method)


@pytest.mark.parametrize("size", [None, 64.5, float("nan"), 2**70, "64", True, 0.2, -1])
def test_a_method_without_a_usable_size_is_refused(size: Any) -> None:
    with pytest.raises(UserError, match="snapkv with kv_size="):
        build_method("snapkv", kv_size=size)
    assert build_method("fullkv").kv_size is None
