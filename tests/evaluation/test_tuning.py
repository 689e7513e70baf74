"""Choosing beta: on the validation part only, from what was measured, and used where it holds."""

import json
import sys
from pathlib import Path

import pytest
import torch

from headkv import UserError, build_method
from headkv.benchmarks.needle import Needle
from headkv.benchmarks.validation import in_validation
from headkv.cli import main
from headkv.config import ROOT
from headkv.evaluation.grid import Cell
from headkv.evaluation.tuning import (
    BETAS,
    best,
    betas,
    candidates,
    read_scores,
    save_choices,
    with_choices,
)
from headkv.models.loading import load_model


@pytest.fixture(scope="module")
def cell(head_scores):
    def cell(name: str, kv_size: int = 128, **identity: object) -> Cell:
        scores = None if name == "snapkv" else head_scores()
        method = build_method(name, kv_size=kv_size, head_scores=scores)
        known = {"kv_size": kv_size, "protocol": "corrected", "granularity": "kv_head"}
        known |= {"beta": 1.2, "kind": name}
        return Cell(name, method, {**known, **identity})

    return cell


def test_the_split_is_fifteen_percent_and_fixed() -> None:
    ids = [f"single-1024-d050-{number}" for number in range(20_000)]
    found = [number for number, id in enumerate(ids) if in_validation("single", id)]
    assert len(found) / len(ids) == pytest.approx(0.15, abs=0.01)
    # Another split would put examples into tables that betas were chosen on.
    assert found[:11] == [0, 4, 7, 18, 22, 23, 24, 30, 31, 32, 33]
    assert found != [number for number, id in enumerate(ids) if in_validation("keyed", id)]


def test_small_caches_have_another_first_value() -> None:
    assert betas(64)[0] == 1.02 and betas(128) == BETAS and len(betas(64)) == 8


def test_every_beta_is_a_cell_of_its_own(cell) -> None:
    found = candidates([cell("snapkv"), cell("headkv_r2_permuted")])
    assert [each.identity["beta"] for each in found] == list(BETAS)
    assert len({each.name for each in found}) == 8
    plain = cell("headkv_r2_permuted").method
    for each in found:
        assert each.method.beta == each.identity["beta"]
        assert torch.equal(each.method.head_scores, plain.head_scores)  # not permuted once more
    budgets = [each.method.budgets(3, 6, 2, 5000) for each in found]
    assert all(int(each.sum()) == 128 * 6 for each in budgets)
    spread = [int(each.max() - each.min()) for each in budgets]
    assert spread == sorted(spread, reverse=True)  # larger beta, smaller pool
    with pytest.raises(UserError, match="beta=choose with method snapkv"):
        candidates([cell("snapkv")])


def test_the_best_is_the_highest_and_of_equals_the_largest() -> None:
    assert best({1.1: 50.0, 1.2: 60.0, 2.0: 60.0, 5.0: 40.0}) == 2.0


def test_choices_are_saved_found_and_replaced(tmp_path: Path, cell) -> None:
    path = tmp_path / "chosen.json"
    cells = candidates([cell("headkv_r"), cell("headkv_r", 64)])
    # Tasks weigh the same: 1.1 has 55, though fewer of its answers are right than 1.5's.
    scores = [{"a": [40.0], "b": [40.0, 40.0, 40.0]} for _ in cells]
    scores[2] = {"a": [100.0], "b": [10.0, 10.0, 10.0]}
    scores[4] = {"a": [0.0], "b": [100.0, 100.0, 100.0]}
    lines = save_choices(path, cells, scores, ["w"], {"seed": 0})
    assert lines[0].startswith("headkv_r at 128: beta 1.1 of 1.005 (40.0)")
    other = cell("snapkv")
    got = with_choices([other, cell("headkv_r"), cell("headkv_r", 64)], path, ["w"])
    assert got[0] is other
    assert [each.identity["beta"] for each in got[1:]] == [1.1, 10.0]
    assert [each.method.beta for each in got[1:]] == [1.1, 10.0]
    entry = next(each for each in json.loads(path.read_text()).values() if each["kv_size"] == 128)
    assert entry["examples"] == {"a": 1, "b": 3} and entry["curve"][2] == [1.1, 55.0]
    save_choices(path, candidates([cell("headkv_r", 64)]), scores[:8], ["w"], {})
    got = with_choices([cell("headkv_r"), cell("headkv_r", 64)], path, ["w"])
    assert [each.method.beta for each in got] == [1.1, 1.1]
    for missing in (cell("headkv_r2"), cell("headkv_r", 256), cell("headkv_r", head_scores="x")):
        with pytest.raises(UserError, match=f"no beta was chosen for {missing.name}") as raised:
            with_choices([missing], path, ["w"])
        assert "experiment=choose_beta" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no beta was chosen"):
        with_choices([cell("headkv_r")], path, ["other weights"])
    path.write_text("{")
    with pytest.raises(UserError, match="cannot read the chosen betas"):
        with_choices([cell("headkv_r")], path, ["w"])


def test_no_validation_example_is_an_error(tmp_path: Path, cell) -> None:
    cells = candidates([cell("headkv_r")])
    with pytest.raises(UserError, match="no example of this run is in the validation part"):
        save_choices(tmp_path / "chosen.json", cells, [{} for _ in cells], [], {})
    assert not list(tmp_path.iterdir())


def test_only_rows_of_this_run_count(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"run_key": key, "score": score} for key, score in (("c-1", 5), ("d-1", 7), ("c-2", 9))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_scores({("a", path): {"c-1", "c-2", "c-3"}}) == {"a": [5, 9]}


BENCHMARK = {"lengths": (260,), "depths": (0.5,), "per_cell": 7}
ASKED = ["task=single", "benchmark.lengths=[260]", "benchmark.depths=[0.5]", "benchmark.per_cell=7"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    sys.path.insert(0, str(ROOT))
    import run_needle
    from headkv.evaluation.job import run_benchmark

    monkeypatch.setattr(sys, "argv", ["run_needle.py", *ASKED, *arguments])
    main("needle", lambda config: run_benchmark(config, run_needle.needle))


def test_choose_then_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on the real model; no validation example ever reaches the results."""
    output = f"output_dir={tmp_path}"
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, output, "method=[headkv_r]", "kv_size=48", "beta=chosen")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "no beta was chosen for headkv_r" in said
    assert not list(tmp_path.iterdir())

    run(monkeypatch, output, "experiment=choose_beta", "method=[fullkv,headkv_r]", "kv_size=48")
    folder = tmp_path / "beta" / "needle" / "smollm2_135m"
    (choice,) = json.loads((folder / "chosen.json").read_text()).values()
    curve = dict(map(tuple, choice["curve"]))
    assert list(curve) == list(betas(48)) and choice["beta"] == best(curve)
    assert not (tmp_path / "needle").exists()
    files = sorted(folder.rglob("*.jsonl"))
    assert len(files) == 8
    _, tokenizer = load_model("smollm2_135m")
    needle = Needle("single", **BENCHMARK)
    ids = [example.id for example in needle.examples(tokenizer)]
    validation = [id for id in ids if in_validation("single", id)]
    assert validation and choice["examples"] == {"single": len(validation)}
    for path in files:
        assert [json.loads(line)["id"] for line in path.open()] == validation

    run(monkeypatch, output, "method=[compresskv,headkv_r]", "kv_size=48", "beta=chosen", "limit=2")
    test = [id for id in ids if id not in validation][:2]
    for name in ("compresskv", "headkv_r"):
        lines = (tmp_path / f"needle/smollm2_135m/{name}/48/single.jsonl").open()
        assert [json.loads(line)["id"] for line in lines] == test
    record = json.loads((tmp_path / "needle/smollm2_135m/run.json").read_text())
    used = [each["beta"] for each in record["cells"] if each["name"] == "headkv_r"]
    assert used == [choice["beta"]]


@pytest.mark.parametrize("given", ["0.5", "best", "true"])
def test_other_betas_are_refused(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, f"beta={given}")
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and "beta=" in said[0]
