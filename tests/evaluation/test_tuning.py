"""Choosing a parameter: on the validation part only, and used only where the choice holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headkv import UserError
from headkv.benchmarks.needle import Needle
from headkv.evaluation.grid import BETA, Cell
from headkv.evaluation.tuning import (
    BETAS,
    best,
    betas,
    candidates,
    read_scores,
    save_choices,
    with_choices,
)
from headkv.storage.validation import in_validation


@pytest.fixture(scope="module")
def cell(make_method: Callable[..., Any]) -> Callable[..., Cell]:
    """A cell as `build_cells` makes it, for a model of three layers and six heads."""

    def cell(name: str, kv_size: int = 128, **parameters: object) -> Cell:
        method = make_method(name, kv_size, **parameters)
        return Cell(name, method, method.identity)

    return cell


def beta(cell: Cell) -> float:
    """The method's beta, which its identity names too."""
    found = cell.method.parameter(BETA)
    assert cell.identity["allocator"]["beta"] == found
    return found


def test_the_split_is_fifteen_percent_and_fixed() -> None:
    ids = [f"single-1024-d050-{number}" for number in range(20_000)]
    found = [number for number, id in enumerate(ids) if in_validation("single", id)]
    assert len(found) / len(ids) == pytest.approx(0.15, abs=0.01)
    # Another split would put examples into tables that betas were chosen on.
    assert found[:11] == [0, 4, 7, 18, 22, 23, 24, 30, 31, 32, 33]
    assert found != [number for number, id in enumerate(ids) if in_validation("keyed", id)]


def test_small_caches_have_another_first_value() -> None:
    assert betas(64)[0] == 1.02 and betas(128) == BETAS and len(betas(64)) == 8


def test_every_beta_is_a_cell_of_its_own(cell: Callable[..., Cell]) -> None:
    found = candidates([cell("snapkv"), cell("headkv_r2_permuted")])
    assert [beta(each) for each in found] == list(BETAS)
    assert [each.name for each in found][:2] == [
        "headkv_r2_permuted_beta1.005",
        "headkv_r2_permuted_beta1.01",
    ]
    budgets = [each.method.budgets(3, 6, 2, 5000) for each in found]
    assert all(int(each.sum()) == 128 * 6 for each in budgets)
    spread = [int(each.max() - each.min()) for each in budgets]
    assert spread == sorted(spread, reverse=True)  # larger beta, smaller pool
    with pytest.raises(UserError, match=r"tune=allocator\.beta with method snapkv"):
        candidates([cell("snapkv")])


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("scorer.window_size", [2, 4, 8, 16, 32]),
        ("scorer.kernel_size", [1, 3, 5, 7, 9, 13]),
        ("allocator.steepness", [5, 10, 20, 40, 80]),
    ],
)
def test_any_numeric_parameter_can_be_tuned(
    cell: Callable[..., Cell], tmp_path: Path, path: str, values: list[int]
) -> None:
    """The whole way from candidates to the choice, and nothing about the others changes."""
    plain = [cell("pyramidkv", 64), cell("streamingllm", 64)]
    found = [each for each in candidates(plain, path) if each.name.startswith("pyramidkv")]
    leaf = path.partition(".")[2]
    assert [each.method.parameter(path) for each in found] == values
    assert [each.name for each in found] == [f"pyramidkv_{leaf}{value}" for value in values]
    file = tmp_path / "chosen.json"
    scores = [{"a": [float(value == values[1])]} for value in values]
    (line,) = save_choices(file, found, path, scores, ["w"], {})
    assert line.startswith(f"pyramidkv at 64: {leaf} {values[1]} of {values[0]} (0.0)")
    (chosen,) = with_choices(plain[:1], path, file, ["w"])
    assert chosen.name == "pyramidkv" and chosen.method.parameter(path) == values[1]


def test_values_out_of_bounds_are_left_out(cell: Callable[..., Cell]) -> None:
    """A window of 32 leaves no room in a cache of 20."""
    found = candidates([cell("snapkv", 20)], "scorer.window_size")
    assert [each.method.window_size for each in found] == [2, 4, 8, 16]


def test_the_best_is_the_highest_and_of_equals_the_largest() -> None:
    assert best({1.1: 50.0, 1.2: 60.0, 2.0: 60.0, 5.0: 40.0}) == 2.0


def test_choices_are_saved_found_and_replaced(tmp_path: Path, cell: Callable[..., Cell]) -> None:
    path = tmp_path / "chosen.json"
    cells = candidates([cell("headkv_r"), cell("headkv_r", 64)])
    # Tasks weigh the same: 1.1 has 55, though fewer of its answers are right than 1.5's.
    scores = [{"a": [40.0], "b": [40.0, 40.0, 40.0]} for _ in cells]
    scores[2] = {"a": [100.0], "b": [10.0, 10.0, 10.0]}
    scores[4] = {"a": [0.0], "b": [100.0, 100.0, 100.0]}
    lines = save_choices(path, cells, BETA, scores, ["w"], {"seed": 0})
    assert lines[0].startswith("headkv_r at 128: beta 1.1 of 1.005 (40.0)")
    other = cell("snapkv")
    got = with_choices([other, cell("headkv_r"), cell("headkv_r", 64)], BETA, path, ["w"])
    assert got[0] is other
    assert [beta(each) for each in got[1:]] == [1.1, 10.0]
    entry = next(each for each in json.loads(path.read_text()).values() if each["kv_size"] == 128)
    assert entry["beta"] == 1.1
    assert entry["examples"] == {"a": 1, "b": 3} and entry["curve"][2] == [1.1, 55.0]
    save_choices(path, candidates([cell("headkv_r", 64)]), BETA, scores[:8], ["w"], {})
    got = with_choices([cell("headkv_r"), cell("headkv_r", 64)], BETA, path, ["w"])
    assert [beta(each) for each in got] == [1.1, 1.1]
    others = cell("headkv_r2"), cell("headkv_r", 256), cell("headkv_r", window_size=4)
    for missing in others:
        with pytest.raises(UserError, match=f"no beta was chosen for {missing.name}") as raised:
            with_choices([missing], BETA, path, ["w"])
        assert "experiment=choose_beta" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no beta was chosen"):
        with_choices([cell("headkv_r")], BETA, path, ["other weights"])
    path.write_text("{")
    with pytest.raises(UserError, match="cannot read the choices"):
        with_choices([cell("headkv_r")], BETA, path, ["w"])


def test_no_validation_example_is_an_error(tmp_path: Path, cell: Callable[..., Cell]) -> None:
    cells = candidates([cell("headkv_r")])
    with pytest.raises(UserError, match="no example of this run is in the validation part"):
        save_choices(tmp_path / "chosen.json", cells, BETA, [{} for _ in cells], [], {})
    assert not list(tmp_path.iterdir())


def test_only_rows_of_this_run_count(tmp_path: Path, make_row: Callable[..., Any]) -> None:
    path = tmp_path / "a.jsonl"
    scores = (("c-1", 5), ("d-1", 7), ("c-2", 9))
    rows = [make_row("snapkv", 64, run_key=key, score=score) for key, score in scores]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_scores({("a", path): {"c-1", "c-2", "c-3"}}) == {"a": [5, 9]}


BENCHMARK = {"lengths": (260,), "depths": (0.5,), "per_cell": 7}
ASKED = ["task=single", "benchmark.lengths=[260]", "benchmark.depths=[0.5]", "benchmark.per_cell=7"]
ASKED += ["benchmark.max_new_tokens=8", "fidelity=false"]


def test_choose_then_use(
    tmp_path: Path,
    needle: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    smollm2: Any,
) -> None:
    """The whole way on the real model; no validation example ever reaches the results."""
    output = f"output_dir={tmp_path}"
    with pytest.raises(SystemExit) as stopped:
        needle(*ASKED, output, "method=[headkv_r]", "kv_size=48", "beta=chosen")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "no beta was chosen for headkv_r" in said
    assert not list(tmp_path.iterdir())

    needle(*ASKED, output, "experiment=choose_beta", "method=[fullkv,headkv_r]", "kv_size=48")
    folder = tmp_path / "beta" / "needle" / "smollm2_135m"
    (choice,) = json.loads((folder / "chosen.json").read_text()).values()
    curve = dict(map(tuple, choice["curve"]))
    assert list(curve) == list(betas(48)) and choice["beta"] == best(curve)
    assert not (tmp_path / "needle").exists()
    files = sorted(folder.rglob("*.jsonl"))
    assert len(files) == 8
    _, tokenizer = smollm2
    benchmark = Needle("single", **BENCHMARK)
    ids = [example.id for example in benchmark.examples(tokenizer)]
    validation = [id for id in ids if in_validation("single", id)]
    assert validation and choice["examples"] == {"single": len(validation)}
    for path in files:
        assert [json.loads(line)["id"] for line in path.open()] == validation

    needle(*ASKED, output, "method=[compresskv,headkv_r]", "kv_size=48", "beta=chosen", "limit=2")
    test = [id for id in ids if id not in validation][:2]
    for name in ("compresskv", "headkv_r"):
        lines = (tmp_path / f"needle/smollm2_135m/{name}/48/single.jsonl").open()
        assert [json.loads(line)["id"] for line in lines] == test
    record = json.loads((tmp_path / "needle/smollm2_135m/run.json").read_text())
    used = [each["allocator"]["beta"] for each in record["cells"] if each["name"] == "headkv_r"]
    assert used == [choice["beta"]]


@pytest.mark.parametrize("given", ["0.5", "best", "true"])
def test_other_betas_are_refused(
    given: str, needle: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        needle(*ASKED, f"beta={given}")
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1 and "beta=" in said[0]
