"""Measuring head scores with the real model on tiny grids: the same again, and after a kill."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headkv import UserError, load_head_scores
from headkv.calibration import job, score_files
from headkv.calibration.head_finder import Finder, Measured
from headkv.calibration.job import run_heads
from headkv.calibration.needles import Place
from headkv.calibration.score_files import essays, model_config
from headkv.calibration.test_log import HeadTestLog
from headkv.config import CONF, places
from headkv.evaluation import assembly
from headkv.models.spec import ModelSpec
from headkv.storage import head_scores, measured
from headkv.storage.head_scores import read_scores

SMALL = ["tests.lengths=[96,160]", "tests.depths=2", "tests.repetitions=1"]
FORCED = [
    "tests.lengths=[96,128,160]",
    "tests.depths=1",
    "tests.repetitions=1",
    "tests.teacher_forcing=true",
]


@pytest.fixture(autouse=True)
def loaded(smollm2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads the model once for all tests."""
    monkeypatch.setattr(job, "load_model", lambda spec: smollm2)
    monkeypatch.setattr(assembly, "load_model", lambda spec: smollm2)


def heads(*overrides: str) -> Path:
    """What `run_heads.py` does, in this process."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("heads", list(overrides)), resolve=True)
    return run_heads({str(key): value for key, value in config.items()})[-1]


def test_the_same_seed_gives_the_same_scores(tmp_path: Path) -> None:
    """Own answers, not forced: the file's scores equal to the last digit."""
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        heads(
            "kind=semantic", *SMALL, "tests.depths=1", "tests.max_new_tokens=14", f"output={path}"
        )
    first, second = (read_scores(path) for path in paths)
    assert first[1] == second[1]
    assert first[0]["tests"] == second[0]["tests"] and first[0]["tests"]["asked"] == 2


@pytest.mark.parametrize("kind", ["duo", "kvzip_head"])
def test_heads_from_texts(kind: str, tmp_path: Path) -> None:
    """The same again, whole KV heads, and a file that runs take for this kind alone."""
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        heads(f"kind={kind}", "texts.lengths=[64]", "texts.depths=1", f"output={path}")
    (header, lists), again = (read_scores(path) for path in paths)
    assert lists == again[1]
    assert header["kind"] == kind and header["tests"] == {"asked": 1, "counted": 1}
    assert all(0 < value < 1 for values in lists.values() for value in values)
    scores = load_head_scores(paths[0], model_config("smollm2_135m"), kind=kind)
    assert scores.shape == (30, 9) and float(scores.std()) > 0.01
    by_group = scores.view(30, 3, 3)
    assert bool((by_group == by_group[:, :, :1]).all()) == (kind == "kvzip_head")
    with pytest.raises(UserError):
        load_head_scores(paths[0], model_config("smollm2_135m"), kind="retrieval")


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the third test, while the second one's line was written."""
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    heads(*FORCED, f"output={whole}")
    measure, ran, allowed = Finder._measure, [], 2

    def until_killed(self: Finder, place: Place) -> Measured:
        if len(ran) == allowed:
            raise KeyboardInterrupt
        ran.append(place.name)
        return measure(self, place)

    monkeypatch.setattr(Finder, "_measure", until_killed)
    with pytest.raises(KeyboardInterrupt):
        heads(*FORCED, f"output={killed}")
    log = tmp_path / "killed.json.tests.jsonl"
    assert len(log.read_text().splitlines()) == 2 and not killed.exists()
    log.write_bytes(log.read_bytes()[:-40])
    ran.clear()
    allowed = 0
    with pytest.raises(KeyboardInterrupt):  # other settings find nothing of theirs
        heads(*FORCED, "tests.seed=7", f"output={killed}")
    allowed = 3
    heads(*FORCED, f"output={killed}")
    assert ran == ["128-000-0", "160-000-0"]
    assert read_scores(killed)[1] == read_scores(whole)[1]
    assert {path.name for path in tmp_path.iterdir()} == {"whole.json", "killed.json"}


def test_the_log_keeps_every_digit_and_leaves_other_lines_alone(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    tests = [
        Measured("a", "one", 0.75, torch.rand(2, 3, dtype=torch.float64)),
        Measured("b", "none", 0.0, None),
    ]
    mine = HeadTestLog(target, "mine")
    mine.append(tests[0])
    mine.append(tests[0])
    with pytest.raises(UserError, match=r"another process is writing .*tests\.jsonl"):
        HeadTestLog(target, "other")
    mine.close()
    with closing(HeadTestLog(target, "other")) as other:
        assert not other.done
        other.append(tests[1])
    with closing(HeadTestLog(target, "mine")) as mine:
        found = mine.done
    assert list(found) == ["a"] and torch.equal(found["a"].scores, tests[0].scores)
    assert list(HeadTestLog(target, "other").done) == ["b"]
    assert len(other.path.read_text().splitlines()) == 2


@pytest.mark.parametrize("broken", ["\0\0\0", "{", "[1]", '{"key": "k"}', "[" * 100_000])
def test_a_broken_line_of_the_log_is_named(tmp_path: Path, broken: str) -> None:
    log = HeadTestLog(tmp_path / "scores.json", "k")
    log.append(Measured("a", "", 0.0, None))
    log.close()
    before = log.path.read_bytes() + broken.encode() + b"\n"
    log.path.write_bytes(before)
    with pytest.raises(UserError, match=r"tests\.jsonl, line 2 is not a head test"):
        HeadTestLog(tmp_path / "scores.json", "k")
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("torn", ['{"key": "', '{"key": "k", "name": "b", "answer": "\u00e9'])
def test_a_torn_line_is_written_again(tmp_path: Path, torn: str) -> None:
    target = tmp_path / "scores.json"
    tests = [Measured(name, "\u00e9", 0.0, None) for name in "ab"]
    with closing(HeadTestLog(target, "k")) as log:
        log.append(tests[0])
    path = log.path
    path.write_bytes(path.read_bytes() + torn.encode()[:-1])
    with closing(HeadTestLog(target, "k")) as again:
        assert list(again.done) == ["a"]
        again.append(tests[1])
    assert list(HeadTestLog(target, "k").done) == ["a", "b"]
    assert len(path.read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set output=, then run again: what is finished is kept"):
        HeadTestLog(tmp_path / "file" / "scores.json", "key").append(Measured("a", "", 0.0, None))


def test_no_test_that_counts_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tests\.teacher_forcing=true"):
        heads(
            "tests.lengths=[96]",
            *SMALL[1:],
            "tests.max_new_tokens=1",
            "tests.success=0.99",
            f"output={tmp_path}/s.json",
        )
    assert not list(tmp_path.iterdir())


def test_rules_and_needles_can_be_crossed(tmp_path: Path) -> None:
    """R2's scoring on plain needles: R's tests, R2's rule, and all attention instead of top N."""
    path, every = tmp_path / "crossed.json", tmp_path / "all.json"
    kind = ["kind=retrieval_reasoning", "tests.needles=retrieval", *FORCED, "tests.lengths=[96]"]
    heads(*kind, f"output={path}")
    heads(*kind, "tests.rule=span_attention", f"output={every}")
    settings = read_scores(path)[0]["settings"]
    assert (settings["rule"], settings["needles"], settings["span"]) == (
        "retrieval_reasoning",
        "retrieval",
        "answer",
    )
    config = model_config("smollm2_135m")
    crossed, all_attention = (load_head_scores(p, config) for p in (path, every))
    assert bool((all_attention >= crossed - 1e-6).all()) and float(crossed.max()) > 0
    assert json.loads(path.read_text())["header"]["tests"]["counted"] == 1


def test_the_masking_experiment(tmp_path: Path, smollm2: Any) -> None:
    """Rows as any benchmark's, with their own run keys; a second run answers nothing again."""
    asked = [
        "mode=masking",
        "masking.kinds=[retrieval]",
        "masking.heads=[0,9]",
        "masking.draws=1",
        "benchmark.lengths=[256]",
        "benchmark.depths=1",
        "benchmark.per_cell=1",
        "benchmark.tasks=[single]",
        "benchmark.max_new_tokens=8",
        f"output_dir={tmp_path}",
    ]
    assert heads(*asked) == tmp_path / "heads" / "smollm2_135m" / "masking.pdf"
    folder = tmp_path / "masking" / "needle" / "smollm2_135m"
    found = {path.parts[-3]: path for path in folder.glob("*/full/single.jsonl")}
    assert set(found) == {"none-0", "retrieval-9", "random0-9"}
    rows = {name: json.loads(path.read_text()) for name, path in found.items()}
    assert len({row["run_key"] for row in rows.values()}) == 3
    assert rows["none-0"]["prediction"] != rows["retrieval-9"]["prediction"]
    assert len(json.loads((folder / "run.json").read_text())["masks"]["retrieval-9"]) == 9
    before = {path: path.read_bytes() for path in found.values()}
    heads(*asked)
    assert {path: path.read_bytes() for path in found.values()} == before
    assert not any(module._forward_pre_hooks for module in smollm2[0].modules())


def test_files_that_the_yaml_does_not_name_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (places, measured, head_scores):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    spec = ModelSpec("m", "org/m", head_scores={"semantic": "elsewhere.json"})
    default = head_scores.default_head_scores("m", "retrieval")
    default.parent.mkdir(parents=True)
    default.write_text("")
    found = score_files.score_files(spec)
    assert found == {"retrieval": default, "semantic": tmp_path / "elsewhere.json"}


def test_where_the_essays_come_from(tmp_path: Path) -> None:
    own = tmp_path / "haystack"
    standard = essays({"haystack": None, "data_dir": str(tmp_path)})
    assert standard == essays({"haystack": None, "data_dir": None})
    own.mkdir()
    assert essays({"haystack": None, "data_dir": str(tmp_path)}) == standard  # it has none
    (own / "a.txt").touch()
    assert essays({"haystack": None, "data_dir": str(tmp_path)})[0] == own
    assert essays({"haystack": str(tmp_path), "data_dir": str(tmp_path)})[0] == tmp_path
    for key in ("haystack", "data_dir"):
        with pytest.raises(UserError, match="is not a folder"):
            essays({"haystack": None, "data_dir": None, key: f"{tmp_path}/nowhere"})
