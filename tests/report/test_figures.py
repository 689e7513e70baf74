"""Figures on small made-up result folders: what is drawn of what is there, and where."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headkv.report.__main__ import main
from headkv.report.figures.accuracy import accuracy_figure, bytes_figure
from headkv.report.figures.efficiency import load_efficiency, memory_figure
from headkv.report.figures.fidelity import fidelity_figure
from headkv.report.figures.heatmap import heatmaps
from headkv.report.figures.results import figures_of, write_figures
from headkv.report.groups import BANNER
from headkv.report.load import load_results
from headkv.report.stats.fidelity import fidelity_cells


def row(size: int | None, number: int, **changes: Any) -> dict[str, Any]:
    kept = 90_000 if size is None else 90 * size
    return {
        "id": str(number),
        "score": 100.0 * (number % 2),
        "scores": {},
        "prompt_tokens": 1000,
        "kv_size": size,
        "kept_tokens": kept,
        "cache_bytes": 100 * kept,
        "full_cache_bytes": 9_000_000,
        "protocol": "corrected",
        "granularity": "kv_head",
        "run_key": f"{size}-{number}",
    } | changes


def write(root: Path, cell: str, rows: list[dict[str, Any]], benchmark: str = "needle") -> None:
    path = root / benchmark / "tiny" / f"{cell}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    """The full cache, SnapKV, and SnapKV per query head with four times the bytes."""
    write(tmp_path, "fullkv/full/a", [row(None, i) for i in range(8)])
    for size in (64, 128):
        write(tmp_path, f"snapkv/{size}/a", [row(size, i) for i in range(8)])
        wide = {"granularity": "query_head", "cache_bytes": 36_000 * size}
        wide_rows = [row(size, i, **wide) for i in range(8)]
        write(tmp_path, f"snapkv/{size}/a@corrected-query_head", wide_rows)
    return load_results(tmp_path)


def stems(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths if path.suffix == ".png"]


def test_figures_of_what_is_there_only_and_the_same_every_time(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    written = write_figures(rows, tmp_path / "out")
    assert stems(written) == ["needle_tiny_accuracy", "needle_tiny_bytes"]
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_figures(rows, tmp_path / "out")] == before
    assert write_figures(rows[rows["kv_size"].isna()], tmp_path / "none") == []


def test_query_heads_stand_as_many_times_further_right(rows: pd.DataFrame) -> None:
    figure = bytes_figure(rows, "t")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    x = {bars.get_label(): bars[0].get_xdata() for bars in axes.containers}
    ratio = x["SnapKV (corrected, query head)"] / x["SnapKV"]
    assert ratio == pytest.approx([4, 4], rel=0.05)
    assert x["FullKV"] == pytest.approx([9.0], rel=0.05)
    low, high = axes.child_axes[0].get_xlim()
    assert low < 100 < high  # percent of the full cache


def test_incomplete_cells_are_named_not_drawn(rows: pd.DataFrame) -> None:
    cut = rows[(rows["kv_size"] != 64) | (rows["granularity"] != "kv_head") | (rows["id"] < "5")]
    for draw in (accuracy_figure, bytes_figure):
        figure = draw(cut, "t")
        assert "SnapKV KV 64 (5/8)" in " ".join(text.get_text() for text in figure.texts)
        drawn = {bars.get_label(): bars[0] for bars in figure.axes[0].containers}
        assert len(drawn["SnapKV"].get_xdata()) == 1


def test_fidelity_is_against_the_full_cache(tmp_path: Path) -> None:
    measures = {"reference_logprob": -3.0, "reference_logprob_full": -1.0, "agreement": 0.5}
    found = {"fidelity": measures | {"kl": 0.25}}
    write(tmp_path, "snapkv/64/a", [row(64, i, **found) for i in range(4)])
    rows = load_results(tmp_path)
    panels = fidelity_figure(fidelity_cells(rows), "t").axes  # of one KV size: dots along x
    drawn = [axes.containers[0][0].get_xdata().tolist() for axes in panels]
    assert drawn == [[0.25], [50.0], [-2.0]]
    write(tmp_path, "snapkv/128/a", [row(128, i, **found) for i in range(4)])
    panels = fidelity_figure(fidelity_cells(load_results(tmp_path)), "t").axes
    drawn = [axes.containers[0][0].get_ydata().tolist() for axes in panels]
    assert drawn == [[0.25] * 2, [50.0] * 2, [-2.0] * 2]
    assert "needle_tiny_fidelity" in stems(write_figures(rows, tmp_path / "out"))


@pytest.mark.parametrize(("lengths", "found"), [(3, ["n_heatmap"]), (6, ["n_heatmap_64"])])
def test_many_lengths_get_a_figure_a_size(tmp_path: Path, lengths: int, found: list[str]) -> None:
    lines = [row(64, i, length=1024 * (i + 1), depth=0.5) for i in range(lengths)]
    write(tmp_path, "snapkv/64/a", lines)
    assert list(heatmaps(load_results(tmp_path), "t", "n")) == found


def test_babilong_is_shown_by_task_and_length(tmp_path: Path) -> None:
    for task in ("qa1_0k", "qa1_4k", "qa2_0k", "qa2_4k"):
        lines = [row(64, i, length=task[-2:]) for i in range(2)]
        write(tmp_path, f"snapkv/64/{task}", lines, "babilong")
    written = write_figures(load_results(tmp_path), tmp_path / "out")
    assert "babilong_tiny_heatmap" in stems(written)


def test_efficiency_takes_the_newest_measurement(rows: pd.DataFrame, tmp_path: Path) -> None:
    def line(size: int | None, length: int, held: int) -> dict[str, Any]:
        spread = {"median": 2.0, "min": 1.0, "max": 3.0}
        seconds = {"first_token": spread, "token": spread, "total": {"16": spread}}
        return row(
            size,
            length,
            id=str(length),
            prompt_tokens=length,
            seconds=seconds,
            repeats=3,
            held_bytes={"after_prefill": held},
            peak_bytes=2 * held,
            device="GPU",
            threads=1,
            dtype="float32",
            weights="own",
        )

    for length in (256, 512):
        lines = [line(64, length, 9_000_000), line(64, length, 1_000_000)]
        write(tmp_path, f"snapkv/64/{length}", lines, "efficiency")
        write(tmp_path, f"fullkv/full/{length}", [line(None, length, 4_000_000)], "efficiency")
    found = load_efficiency(tmp_path)
    assert len(found) == 4
    drawn = {bars.get_label(): bars[0] for bars in memory_figure(found, "t").axes[0].containers}
    assert drawn["SnapKV"].get_ydata().tolist() == [1.0, 1.0]
    written = stems(write_figures(rows, tmp_path))
    assert written[-2:] == ["efficiency_tiny_latency", "efficiency_tiny_memory"]


def test_figures_are_drawn_and_reproducible(results: Path) -> None:
    assert main(["tables", "figures", str(results)]) == 0
    figures = {p.name: p.read_bytes() for p in (results / "figures").iterdir()}
    assert sorted(figures) == sorted(
        f"needle_tiny_model_{kind}.{form}"
        for kind in ("accuracy", "bytes", "heatmap")
        for form in ("pdf", "png")
    )
    assert all(len(content) > 8000 for content in figures.values())
    assert main(["figures", str(results)]) == 0
    assert {p.name: p.read_bytes() for p in (results / "figures").iterdir()} == figures


def test_figures_of_partial_and_odd_results(
    tmp_path: Path, make_row, needle_rows, write_rows
) -> None:
    write_rows(tmp_path, "snapkv", 64, needle_rows("snapkv", 64))
    write_rows(tmp_path, "adakv", 64, needle_rows("adakv", 64)[:7])
    write_rows(tmp_path, "strange", 128, needle_rows("strange", 128))
    write_rows(tmp_path, "fullkv", None, needle_rows("fullkv", None), benchmark="only_full")
    plain = [make_row("snapkv", 64, score=0.0)]
    write_rows(tmp_path, "snapkv", 64, plain, benchmark="no_depth")
    assert main(["figures", str(tmp_path)]) == 0
    names = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert names == {
        "needle_tiny_model_accuracy",
        "needle_tiny_model_bytes",
        "needle_tiny_model_heatmap",
        "only_full_tiny_model_heatmap",
        "no_depth_tiny_model_accuracy",
        "no_depth_tiny_model_bytes",
    }


def test_partial_results_are_noted_in_the_figures(results: Path, needle_rows, write_rows) -> None:
    write_rows(results, "adakv", 128, needle_rows("adakv", 128)[:25])
    rows = load_results(results)
    for draw in (accuracy_figure, bytes_figure):
        texts = " ".join(text.get_text() for text in draw(rows, "title").texts)
        assert "Ada-KV KV 128 (25/40)" in texts.replace("\n", " ")


def test_one_size_makes_no_curve(rows: pd.DataFrame) -> None:
    """Methods stand below one another, each once, the full cache as a line through them."""
    axes = accuracy_figure(rows[rows["kv_size"].isna() | (rows["kv_size"] == 64)], "t").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["SnapKV", "SnapKV (corrected, query head)"]
    assert [bars[0].get_xdata().tolist() for bars in axes.containers] == [[50.0], [50.0]]
    assert "FullKV" in [text.get_text() for text in axes.texts]


def test_a_panel_where_the_question_was_not_seen(rows: pd.DataFrame) -> None:
    unseen = rows.assign(compress_on="context", score=0.0)
    for draw in (accuracy_figure, bytes_figure):
        figure = draw(pd.concat([rows, unseen], ignore_index=True), "t")
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == ["question seen", "question not seen"]
        drawn = [axes.containers[0][0].get_ydata() for axes in figure.axes]
        assert (drawn[0] == 50).all() and (drawn[1] == 0).all()
        assert figure.get_suptitle() == "t: n = 8"
    assert "question seen" in accuracy_figure(rows, "t").get_suptitle()


def test_samples_say_so_in_every_figure(tmp_path: Path) -> None:
    lines = [row(size, i, fidelity=None) for size in (64, 128) for i in range(2)]
    for size in (64, 128):
        mine = [line for line in lines if line["kv_size"] == size]
        write(tmp_path, f"snapkv/{size}/a_1k", mine, "longbench_sample")
    found = figures_of(load_results(tmp_path), tmp_path)
    assert len(found) == 3
    for figure in found.values():
        assert BANNER in figure.get_suptitle()
        assert BANNER in [text.get_text() for text in figure.texts]


def test_dark_copies_differ_and_lie_apart(rows: pd.DataFrame, tmp_path: Path) -> None:
    light = {p.name: p.read_bytes() for p in write_figures(rows, tmp_path) if p.suffix == ".png"}
    dark = write_figures(rows, tmp_path, dark=True)
    assert {path.name for path in dark} == set(light)
    assert {path.parent for path in dark} == {tmp_path / "figures" / "dark"}
    assert all(path.read_bytes() != light[path.name] for path in dark)


def test_no_titles_of_a_heatmap_overlap(tmp_path: Path) -> None:
    """Long names are broken: each stays above its own panel."""
    for kind, on in (("", "prompt"), ("-context", "context")):
        for method in ("snapkv", "headkv_r2_permuted", "streamingllm"):
            lines = [
                row(64, i, length=512, depth=0.5, granularity="query_head", compress_on=on)
                for i in range(2)
            ]
            write(tmp_path, f"{method}/64/a@corrected-query_head{kind}", lines)
    (figure,) = heatmaps(load_results(tmp_path), "t", "n").values()
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_title()]
    boxes = [axes.title.get_window_extent() for axes in panels]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
