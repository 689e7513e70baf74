"""Settings from a declared space: as many trials for each method, chosen and used apart."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headkv import UserError
from headkv.evaluation.grid import Cell
from headkv.evaluation.settings import Settings
from headkv.evaluation.space import drawn, part_of, read_space
from headkv.evaluation.trials import trials
from headkv.evaluation.tuned import best, measured, save_tuned, with_settings
from headkv.storage.kinds import faults
from headkv.storage.tuned import ALL, read_tuned, tuned_file
from headkv.storage.validation import in_validation

SPACE = {
    "scorer": {"window_size": [4, 8], "kernel_size": [7, 21], "pooling": ["max", "avg"]},
    "allocator": {"beta": [1.2, 2], "floor_ratio": None},
}


@pytest.fixture(scope="module")
def cell(make_method: Callable[..., Any]) -> Callable[..., Cell]:
    """A cell as `build_cells` makes it."""

    def cell(name: str, kv_size: int | None = 128, **parameters: object) -> Cell:
        method = make_method(name, kv_size, **parameters)
        return Cell(name, method, method.identity)

    return cell


@pytest.fixture
def asked(tmp_path: Path, make_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings of a run in a folder of its own."""
    return lambda **changes: make_settings(tmp_path, **changes)


def chosen(folder: Path, asked: Settings, cells: list[Cell], good: int, **note: Any) -> list[str]:
    """Saves a choice where the trial at a place, of each cell, is the best."""
    assert isinstance(asked.tune, dict)
    tried = trials(cells, asked.tune, asked.trials, asked.trials_seed)
    scores = [
        [{"a": [(90.0 if place == good else 10.0, 0.5)]} for place in range(len(each.cells))]
        for each in tried
    ]
    return save_tuned(asked, note.pop("benchmark", "needle"), "tiny", "w", tried, scores, note)


def test_a_space_is_read_nested_or_by_path() -> None:
    assert read_space(SPACE) == {
        "scorer.window_size": (4, 8),
        "scorer.kernel_size": (7, 21),
        "scorer.pooling": ("max", "avg"),
        "allocator.beta": (1.2, 2),
    }
    assert read_space({"scorer.base.kernel_size": 7}) == {"scorer.base.kernel_size": (7,)}
    assert read_space("allocator.beta") == "allocator.beta" and read_space(None) is None
    inner: list[object] = [[[1]], [], [None]]
    wrong: list[object] = [{"scorer": 7}, {"entries": {"a": 1}}, {}]
    for each in [*wrong, *({"scorer": {"a": values}} for values in inner)]:
        with pytest.raises(UserError, match="tune"):
            read_space(each)


def test_the_draw_has_everything_once_and_shares_scorer_settings() -> None:
    space = {"scorer.a": (1, 2, 3), "scorer.b": (1, 2), "allocator.c": (1, 2, 3, 4)}
    scorers, allocators = part_of(space, "scorer"), part_of(space, "allocator")
    whole = list(drawn(scorers, allocators, 0))
    assert len({tuple(each.values()) for each in whole}) == len(whole) == 24
    alone = list(drawn(scorers, [{}], 0))
    assert [{k: v for k, v in each.items() if k != "allocator.c"} for each in whole[:6]] == alone
    assert {each["allocator.c"] for each in whole[:4]} == {1, 2, 3, 4}
    assert list(drawn(scorers, allocators, 1)) != whole == list(drawn(scorers, allocators, 0))


def test_every_method_has_as_many_trials_and_its_published_settings_first(
    cell: Callable[..., Cell],
) -> None:
    space = read_space(SPACE)
    assert isinstance(space, dict)
    cells = [cell("fullkv", None), cell("snapkv"), cell("headkv_r2"), cell("streamingllm")]
    snapkv, headkv, streaming = trials(cells, space, 6, 0)
    assert [len(each.cells) for each in (snapkv, headkv, streaming)] == [6, 6, 2]
    for each in (snapkv, headkv, streaming):
        assert each.cells[0].method.identity == each.published.method.identity
        assert len({json.dumps(trial.identity) for trial in each.cells}) == len(each.cells)
        assert all(trial.settings == "trial" for trial in each.cells)
        for trial in each.cells:
            got = {path: trial.method.setting(path) for path in trial.parameters}
            assert got == trial.parameters and trial.identity == trial.method.identity
    assert "allocator.beta" not in snapkv.cells[1].parameters
    assert snapkv.cells[0].name == "snapkv_window_size8_kernel_size7_poolingmax"
    # More trials are the same ones and others: rows that are there count.
    more = trials(cells[1:2], space, 8, 0)[0]
    assert [each.name for each in more.cells[:6]] == [each.name for each in snapkv.cells]
    assert len(trials(cells[1:2], space, 100, 0)[0].cells) == 8


def test_scorers_over_scorers_have_settings_of_their_base(cell: Callable[..., Cell]) -> None:
    (tried,) = trials([cell("chunkkv")], {"scorer.base.kernel_size": (7, 21)}, 9, 0)
    assert [each.method.setting("scorer.base.kernel_size") for each in tried.cells] == [7, 21]
    assert tried.cells[1].identity["scorer"]["base"]["kernel_size"] == 21
    for path in ("scorer.base.window_size", "scorer.base.nothing", "allocator.kind"):
        with pytest.raises(UserError):
            cell("chunkkv").method.setting(path)
    with pytest.raises(UserError, match="parameter to choose 'kind'"):
        cell("headkv_r2").method.setting("allocator.kind")


def test_what_no_method_can_try_is_refused(cell: Callable[..., Cell]) -> None:
    with pytest.raises(UserError, match="tune= with method snapkv"):
        trials([cell("snapkv")], {"allocator.beta": (1.2,)}, 4, 0)
    with pytest.raises(UserError, match=r"scorer\.pooling=mean, which no method"):
        trials([cell("snapkv")], {"scorer.pooling": ("max", "mean")}, 4, 0)
    small = trials([cell("snapkv", 20), cell("snapkv")], {"scorer.window_size": (4, 32)}, 4, 0)
    assert [len(each.cells) for each in small] == [2, 3]


def test_the_best_has_the_score_then_the_divergence_then_the_place() -> None:
    tried = [(50, 0.1), (60, 0.4), (60, 0.3), (60, 0.3), (59, 0.0)]
    found = [{"score": float(score), "kl": kl, "i": i} for i, (score, kl) in enumerate(tried)]
    assert best(found)["i"] == 2
    assert best([each | {"kl": None} for each in found])["i"] == 1


def test_rows_of_this_run_are_measured(tmp_path: Path, make_row: Callable[..., Any]) -> None:
    rows = [
        make_row("snapkv", 64, run_key="c-1", score=5, fidelity={"kl": 0.25}),
        make_row("snapkv", 64, run_key="d-1", score=7, fidelity={"kl": 9.0}),
        make_row("snapkv", 64, run_key="c-2", score=9),
        {"id": "3", "error": "no memory", "run_key": "c-3"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = measured({("a", path): {"c-1", "c-2", "c-3"}})
    assert got == {"a": [(5, 0.25), (9, None)]}


def test_choices_are_saved_and_used_and_never_mixed(
    tmp_path: Path, asked: Callable[..., Settings], cell: Callable[..., Cell]
) -> None:
    cells = [cell("fullkv", None), cell("snapkv"), cell("headkv_r2")]
    choosing = asked(tune=SPACE, trials=4)
    with pytest.raises(UserError, match="no settings were chosen for snapkv at kv_size=128"):
        with_settings(cells, asked(settings=["tuned"]), "needle", "tiny", "w")
    lines = chosen(tmp_path, choosing, cells, 2, seed=7)
    assert lines[0].startswith("snapkv at 128, needle: window_size ")
    file = tuned_file(tmp_path, "needle", "tiny")
    assert not list(faults(file)) and not tuned_file(tmp_path, ALL, "tiny").exists()
    snapkv, headkv = read_tuned(file).values()
    assert snapkv["tried"][0]["parameters"] == {
        "scorer.window_size": 8,
        "scorer.kernel_size": 7,
        "scorer.pooling": "max",
    }
    assert snapkv["chosen"] == snapkv["tried"][2]["parameters"] and snapkv["seed"] == 7
    both = asked(settings=["tuned", "published"])
    got = with_settings(cells, both, "needle", "tiny", "w")
    names = ["fullkv", "snapkv", "snapkv+tuned", "headkv_r2", "headkv_r2+tuned"]
    assert [each.name for each in got] == names
    assert {each.name for each in got if each.settings == "tuned"} == {names[2], names[4]}
    assert got[2].parameters == snapkv["chosen"] and got[1].parameters == {}
    for path, value in headkv["chosen"].items():
        assert got[4].method.setting(path) == value
    assert got[1].identity == cells[1].identity != got[2].identity
    for other in (cell("snapkv", 64), cell("snapkv", window_size=4)):
        with pytest.raises(UserError, match="experiment=choose_settings method=snapkv"):
            with_settings([other], both, "needle", "tiny", "w")
    unseen = replace(cells[1], compress_on="context")
    for of in (("babilong", "tiny", "w"), ("needle", "big", "w"), ("needle", "tiny", "v")):
        with pytest.raises(UserError, match="no settings were chosen"):
            with_settings(cells[1:2], both, *of)
    with pytest.raises(UserError, match="no settings were chosen"):
        with_settings([unseen], both, "needle", "tiny", "w")
    chosen(tmp_path, asked(tune=SPACE, trials=3), [cells[1]], 1)
    with pytest.raises(UserError, match="chosen from another trials"):
        with_settings(cells, both, "needle", "tiny", "w")


def test_what_has_nothing_to_choose_stays_as_published(
    tmp_path: Path, asked: Callable[..., Settings], cell: Callable[..., Cell]
) -> None:
    cells = [cell("snapkv"), cell("headkv_r2")]
    chosen(tmp_path, asked(tune={"allocator": {"beta": [1.2, 2.0]}}, trials=4), cells, 1)
    got = with_settings(cells, asked(settings="tuned"), "needle", "tiny", "w")
    assert [each.name for each in got] == ["snapkv", "headkv_r2+tuned"]
    assert got[1].method.setting("allocator.beta") == 2.0


def test_all_benchmarks_together_weigh_the_same(
    tmp_path: Path, asked: Callable[..., Settings], cell: Callable[..., Cell]
) -> None:
    snapkv, choosing = cell("snapkv"), asked(tune=SPACE, trials=4)
    chosen(tmp_path, choosing, [snapkv], 1)
    tried = trials([snapkv], choosing.tune, 4, 0)  # type: ignore[arg-type]
    scores = [{"b": [(each, 0.1)] * 30} for each in (20.0, 60.0, 80.0, 10.0)]
    lines = save_tuned(choosing, "babilong", "tiny", "w", tried, [scores], {})
    assert "needle + babilong" in lines[1] or "babilong + needle" in lines[1]
    (entry,) = read_tuned(tuned_file(tmp_path, ALL, "tiny")).values()
    assert [each["score"] for each in entry["tried"]] == [15.0, 75.0, 45.0, 10.0]
    assert [each["kl"] for each in entry["tried"]] == [0.3] * 4
    assert sorted(entry["families"]) == ["babilong", "needle"]
    assert sum(entry["examples"].values()) == 31
    got = with_settings(
        [snapkv], asked(settings=["published", "tuned", "tuned_on_all"]), "babilong", "tiny", "w"
    )
    assert [each.name for each in got] == ["snapkv", "snapkv+tuned", "snapkv+tuned_on_all"]
    assert got[1].parameters == dict(tried[0].cells[2].parameters)
    assert got[2].parameters == dict(tried[0].cells[1].parameters)
    # A sample of a benchmark, another model or another space has no part in it.
    save_tuned(choosing, "babilong_sample", "tiny", "w", tried, [scores], {})
    (again,) = read_tuned(tuned_file(tmp_path, ALL, "tiny")).values()
    assert len(again["families"]) == 2


def test_no_validation_example_is_an_error(
    tmp_path: Path, asked: Callable[..., Settings], cell: Callable[..., Cell]
) -> None:
    choosing = asked(tune=SPACE, trials=2)
    tried = trials([cell("snapkv")], choosing.tune, 2, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no example of this run is in the validation part"):
        save_tuned(choosing, "needle", "tiny", "w", tried, [[{}, {}]], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"tune": SPACE, "settings": "tuned"},
        {"tune": "allocator.beta", "settings": "tuned"},
        {"beta": "chosen", "settings": "tuned"},
        {"beta": 1.5, "settings": "tuned"},
        {"beta": "choose", "tune": SPACE},
        {"settings": "best"},
        {"tune": SPACE, "trials": 1},
        {"tune": "beta"},
    ],
)
def test_what_cannot_go_together_is_refused(
    changes: dict[str, Any], asked: Callable[..., Settings]
) -> None:
    with pytest.raises(UserError) as raised:
        asked(**changes)
    assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


ASKED = ["task=single", "benchmark.lengths=[260]", "benchmark.depths=[0.5]", "benchmark.per_cell=7"]


def test_choose_then_run_both_from_one_prefill(
    tmp_path: Path, needle: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on the real model, from the experiment to a table of both."""
    output = [f"output_dir={tmp_path}", "method=[fullkv,snapkv]", "kv_size=48"]
    needle(*ASKED, *output, "experiment=choose_settings", "trials=3")
    folder = tmp_path / "tuning" / "needle" / "smollm2_135m"
    (entry,) = read_tuned(folder / "settings.json").values()
    files = sorted(folder.rglob("*.jsonl"))
    assert len(files) == len(entry["tried"]) == 3
    rows = [json.loads(line) for path in files for line in path.open()]
    assert all(in_validation("single", row["id"]) for row in rows)
    assert {row["settings"] for row in rows} == {"trial"}
    needle(*ASKED, *output, "settings=[published,tuned]", "limit=1", "fidelity=false")
    found = {
        path.parts[-3]: json.loads(path.read_text()) for path in tmp_path.glob("needle/*/*/*/*")
    }
    assert set(found) == {"fullkv", "snapkv", "snapkv+tuned"}
    assert not any(in_validation("single", row["id"]) for row in found.values())
    assert found["snapkv+tuned"]["settings"] == "tuned"
    assert found["snapkv+tuned"]["parameters"] == entry["chosen"]
    assert found["snapkv"]["settings"] == "published"
    assert len({row["seconds"]["prefill"] for row in found.values()}) == 1
    for given, told in (
        ("+tune.scorer.kernal_size=[3]", "no scorer has a parameter 'kernal_size'"),
        ("shard=0/2", "one process"),
    ):
        with pytest.raises(SystemExit):
            needle(*ASKED, *output, "experiment=choose_settings", given)
        assert told in capsys.readouterr().err
