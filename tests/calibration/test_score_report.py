"""The report on head scores: numbers against plain computations, figures on made-up files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from transformers import LlamaConfig

from headkv import UserError
from headkv.calibration.__main__ import main
from headkv.cli import front_door
from headkv.report.heads.scores import (
    ScoreFile,
    correlation,
    overlap,
    rank_correlation,
    read_score_file,
    stability,
    summary,
    top_heads,
)
from headkv.storage.head_scores import best_heads


def write(path: Path, values: np.ndarray, kind: str | None = None) -> Path:
    """A score file of `[layer, head, test]`; with a header if it has a kind."""
    scores = {f"{a}-{b}": values[a, b].tolist() for a, b in np.ndindex(*values.shape[:2])}
    path.write_text(json.dumps({"header": {"kind": kind}, "scores": scores} if kind else scores))
    return path


def made_up(seed: int, noise: float = 0.2, tests: int = 40) -> np.ndarray:
    """Scores of six layers and four heads: a few heads are good, every test sees it noisily."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(0).random((6, 4)) ** 6
    return np.clip(truth[..., None] + noise * rng.standard_normal((6, 4, tests)), 0, None)


def file(values: np.ndarray, name: str = "f") -> ScoreFile:
    return ScoreFile(name, "", values.mean(-1), values)


def test_correlations_equal_scipys() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.integers(0, 5, 50).astype(float), rng.random(50)
    assert correlation(one, two) == pytest.approx(pearsonr(one, two).statistic)
    assert rank_correlation(one, two) == pytest.approx(spearmanr(one, two).statistic)
    assert correlation(np.zeros(50), two) == 0


def test_halves_of_the_same_scores_agree_and_of_noise_do_not() -> None:
    same = stability(file(made_up(1, noise=0.0)), draws=5)
    assert same[["pearson", "spearman", "top"]].to_numpy() == pytest.approx(1)
    noise = stability(file(np.random.default_rng(0).random((30, 9, 40))), draws=50).iloc[-1]
    assert abs(noise["pearson"]) < 0.2 and abs(noise["spearman"]) < 0.2
    assert noise["top"] == pytest.approx(20 / 270, abs=0.06)


def test_agreement_grows_with_the_tests() -> None:
    found = stability(file(made_up(2)), draws=50)
    assert found["tests"].tolist() == [1, 2, 5, 10, 20]
    assert found["pearson"].is_monotonic_increasing
    last = found.iloc[-1]
    assert last["full"] == pytest.approx(2 * last["pearson"] / (1 + last["pearson"]))
    assert found["full"][:-1].isna().all()
    assert (found["pearson_low"] <= found["pearson"]).all()
    assert stability(file(made_up(2)), draws=50).equals(found)


def test_one_test_has_no_halves() -> None:
    assert stability(file(made_up(2, tests=1))).empty


def test_best_heads_and_where_the_scores_lie() -> None:
    table = np.array([[0.0, 3.0], [1.0, 3.0], [0.0, 1.0]])
    assert best_heads(table) == [(0, 1), (1, 1), (1, 0), (2, 1), (0, 0), (2, 0)]
    one = summary([file(table[..., None])]).iloc[0]
    assert (one["heads"], one["zero"], one["half"], one["most"]) == (6, 2, 2, 4)
    ranks = top_heads([file(table[..., None])])
    assert ranks["share"].sum() == pytest.approx(1) and ranks["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_overlap_counts_what_is_shared() -> None:
    one = np.arange(24.0).reshape(6, 4, 1)
    two = np.where(one >= 21, one + 9, 24 - one)  # the best three stay, the others turn round
    found = overlap([file(one, "a"), file(two, "b"), file(one[:3], "small")], counts=(5, 10, 99))
    assert found["k"].tolist() == [5, 10, 24] and set(found["second"]) == {"b"}
    assert found["shared"].tolist() == [3, 3, 24]
    assert found["chance"].tolist() == pytest.approx([25 / 24, 100 / 24, 24])
    same = overlap([file(one, "a"), file(one, "b")], counts=(5,)).iloc[0]
    assert same["shared"] == 5 and same["pearson"] == pytest.approx(1)


def test_heads_with_other_numbers_of_tests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"0-0": [1, 2], "0-1": [1]}')
    with pytest.raises(UserError, match="from 1 to 2 scores a head"):
        read_score_file(path)
    path.write_text('{"0-0": [1], "1-1": [1]}')
    with pytest.raises(UserError, match="heads, not for"):
        read_score_file(path)


def test_the_numbers_need_no_torch() -> None:
    code = (
        "import sys, headkv.report.heads.tables, headkv.report.heads.masking;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "my-model"
    LlamaConfig(
        num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, hidden_size=32
    ).save_pretrained(model)
    files = [
        write(tmp_path / "my-model_retrieval.json", made_up(1), "retrieval"),
        write(tmp_path / "published.json", made_up(2)),
    ]
    arguments = [str(model), *map(str, files), "--output-dir", str(tmp_path / "out")]
    assert main(["report", *arguments]) == 0
    folder = tmp_path / "out" / "heads" / "my-model"
    figures = [f"{a}_{b}" for a in ("retrieval", "published") for b in ("heatmap", "budgets")]
    figures += ["distribution", "stability"]
    tables = ["top_heads", "stability", "overlap"]
    wanted = {f"{name}.{form}" for name in figures for form in ("png", "pdf")}
    wanted |= {f"{name}.{form}" for name in tables for form in ("csv", "md")}
    assert {path.name for path in folder.iterdir()} == wanted
    assert set(pd.read_csv(folder / "overlap.csv")["first"]) == {"retrieval"}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["report", *arguments]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    capsys.readouterr()
    assert front_door(main, ["report", str(model)]) == 2
    assert "make heads MODEL=" in capsys.readouterr().err
