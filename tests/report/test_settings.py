"""Published and chosen settings side by side: the same examples, and never under one name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headkv.report.__main__ import main
from headkv.report.figures.sensitivity import sensitivity_figures, trials_of
from headkv.report.groups import Group
from headkv.report.load import load_results
from headkv.report.tables.results import write_tables
from headkv.report.tables.scores import accuracy_table
from headkv.storage.validation import in_validation

TUNED = {"settings": "tuned", "parameters": {"scorer.kernel_size": 21, "scorer.pooling": "avg"}}


@pytest.fixture
def root(
    tmp_path: Path, make_row: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]
) -> Path:
    """SnapKV as published on forty examples, and with chosen settings on the test part alone."""
    ids = [str(number) for number in range(40)]
    test = [id for id in ids if not in_validation("single", id)]
    assert 30 < len(test) < 40
    write_rows(tmp_path, "fullkv", None, [make_row("fullkv", None, id=id) for id in ids])
    for size in (64, 128):
        rows = [make_row("snapkv", size, id=id, score=0.0) for id in ids]
        write_rows(tmp_path, "snapkv", size, rows)
        own = [make_row("snapkv+tuned", size, id=id, **TUNED) for id in test]
        write_rows(tmp_path, "snapkv+tuned", size, own)
        write_rows(tmp_path, "snapkv", size, rows, benchmark="other")
    return tmp_path


def test_all_methods_are_shown_on_the_test_part(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = load_results(root)
    mine = rows[rows["benchmark"] == "needle"]
    assert not any(map(in_validation, mine["task"], mine["id"]))
    assert mine.groupby(["method", "kv_size"], dropna=False).size().nunique() == 1
    assert (rows["benchmark"] == "other").sum() == 80  # nothing was chosen for it
    assert "examples that settings were chosen on" in caplog.text


def test_tables_name_both_and_say_which_settings(root: Path) -> None:
    rows = load_results(root, "needle")
    group = Group("needle", "tiny_model", rows)
    cells = group.cells
    assert set(cells.loc[cells["mark"] == "", "method"]) == {"fullkv", "snapkv", "snapkv+tuned"}
    pairs = group.tests[["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["snapkv+tuned", "snapkv"]]
    names = [row[0] for row in accuracy_table(cells, "needle", "tiny_model").rows]
    assert names == ["FullKV", "SnapKV", "SnapKV, tuned"]
    written = {path.name: path for path in write_tables(rows, root)}
    told = written["needle_tiny_model_settings.md"].read_text()
    assert "SnapKV, tuned" in told and "kernel_size 21, pooling avg" in told
    frame = pd.read_csv(written["needle_tiny_model_settings.csv"])
    assert list(frame["parameter"]) == ["scorer.kernel_size", "scorer.pooling"] * 2
    assert "other_tiny_model_settings.md" not in {path.name for path in write_tables(rows, root)}


def test_methods_tuned_alike_are_compared_with_one_another(
    root: Path, make_row: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]
) -> None:
    ids = [str(number) for number in range(40) if not in_validation("single", str(number))]
    for name, score in (("adakv", 100.0), ("adakv+tuned", 0.0)):
        rows = [make_row(name, 64, id=id, score=score) for id in ids]
        write_rows(root, name, 64, rows)
    group = Group("needle", "tiny_model", load_results(root, "needle"))
    best = group.cells[(group.cells["mark"] == "best") & (group.cells["task"] == "all")]
    assert sorted(best["method"]) == ["adakv", "snapkv+tuned"]
    tests = group.tests[group.tests["kv_size"] == 64]
    assert sorted(zip(tests["first"], tests["second"], strict=True)) == [
        ("adakv+tuned", "adakv"),
        ("snapkv", "adakv"),
        ("snapkv+tuned", "adakv+tuned"),
        ("snapkv+tuned", "snapkv"),
    ]
    told = accuracy_table(group.cells, "needle", "tiny_model").note
    assert "Tuned: settings chosen on the validation part" in told


def test_sensitivity_of_the_trials(tmp_path: Path, kinds: dict[str, Any]) -> None:
    """A line a way of pooling; drawn without any table, and not where nothing was tried."""
    assert sensitivity_figures(tmp_path) == {}
    entry = kinds["chosen settings"].content["abc"]
    tried = [
        {
            "parameters": {"scorer.kernel_size": width, "scorer.pooling": pooling},
            "score": float(width),
            "kl": 1 / width,
        }
        for width in (7, 21)
        for pooling in ("max", "avg")
    ]
    base = {"scorer.base.kernel_size": 7}
    entries = {
        "a": {**entry, "tried": tried},
        "b": {**entry, "kv_size": 128, "method": "adakv", "tried": tried},
        "c": {**entry, "method": "chunkkv", "tried": [{**tried[0], "parameters": base}]},
    }
    kinds["chosen settings"].write(tmp_path, entries)
    frame = trials_of(entries)
    assert len(frame) == 9 and frame["published"].sum() == 3
    assert list(frame["kernel_size"]) == [7, 7, 21, 21] * 2 + [7]
    (figure,) = sensitivity_figures(tmp_path).values()
    figure.draw_without_rendering()
    panels = figure.axes
    assert len(panels) == 4  # two sizes, score and KL; no window was tried
    lines = {tuple(np.asarray(line.get_ydata())) for line in panels[0].get_lines()}
    assert (7.0, 21.0) in lines
    assert main(["figures", str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "needle_tiny_model_sensitivity.png").exists()
