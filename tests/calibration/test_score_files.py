"""Score files in and out of the published shape, with files made up here."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from headkv import UserError, load_head_scores, save_head_scores
from headkv.calibration.__main__ import main
from headkv.calibration.score_files import export_scores, import_scores
from headkv.storage.head_scores import read_scores

CONFIG = LlamaConfig(
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model folder with nothing but its config."""
    folder = tmp_path / "my-model"
    CONFIG.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """As the authors' files: one line, whole zeros among the numbers, layers not in order."""
    path = tmp_path / "published.json"
    scores = {
        f"{layer}-{head}": [0, 1 / (1 + layer + head), head * 1e-7]
        for layer in (2, 0, 1)
        for head in range(4)
    }
    path.write_text(json.dumps(scores))
    return path


def test_import_and_export_bring_the_file_back(published: Path, model: str, tmp_path: Path) -> None:
    ours, back = tmp_path / "ours.json", tmp_path / "back.json"
    arguments = ["--model", model, "--kind", "retrieval_reasoning"]
    assert main(["import", str(published), str(ours), *arguments]) == 0
    assert main(["export", str(ours), str(back)]) == 0
    assert json.loads(back.read_text()) == json.loads(published.read_text())
    header = read_scores(ours)[0]
    assert (header["model"], header["kind"], header["shape"]) == (
        "my-model",
        "retrieval_reasoning",
        [3, 4],
    )
    assert header["tests"] == {"asked": None, "counted": 3}
    assert header["imported"]["file"] == "published.json"
    loaded = [load_head_scores(path, CONFIG) for path in (published, ours, back)]
    assert torch.equal(loaded[0], loaded[1]) and torch.equal(loaded[0], loaded[2])
    other = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=64)
    assert load_head_scores(published, other).shape == (3, 4)  # says nothing of its model
    with pytest.raises(UserError, match="another model"):
        load_head_scores(ours, other)
    assert torch.equal(load_head_scores(ours, other, allow_foreign=True), loaded[0])


def test_export_and_import_bring_our_scores_back(model: str, tmp_path: Path) -> None:
    tests = [torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    ours, plain, again = (tmp_path / f"{name}.json" for name in ("ours", "plain", "again"))
    save_head_scores(ours, tests, {"model": "m", "kind": "semantic"})
    export_scores(ours, plain)
    assert read_scores(plain)[0] == {}
    import_scores(plain, again, model, "semantic")
    assert read_scores(again)[1] == read_scores(ours)[1]


def test_what_is_refused(published: Path, model: str, tmp_path: Path) -> None:
    ours = tmp_path / "ours.json"
    import_scores(published, ours, model, "retrieval")
    with pytest.raises(UserError, match="has a header already"):
        import_scores(ours, tmp_path / "twice.json", model, "retrieval")
    with pytest.raises(UserError, match="exists"):
        export_scores(published, ours)
    with pytest.raises(UserError, match="unknown kind"):
        import_scores(published, tmp_path / "kind.json", model, "best")
    published.write_text('{"0-0": [1]}')
    with pytest.raises(UserError, match="3 layers x 4 heads"):
        import_scores(published, tmp_path / "shape.json", model, "retrieval")
    with pytest.raises(UserError, match="cannot read head scores"):
        main(["export", str(tmp_path / "nowhere.json"), str(tmp_path / "x.json")])
    assert {path.name for path in tmp_path.glob("*.json")} == {"published.json", "ours.json"}


@pytest.mark.parametrize(
    "text",
    [
        '{"header": {}, "scores": [1]}',
        '{"header": {}}',
        '{"header": 1, "scores": {}}',
        '{"0-0": [NaN]}',
        '{"0-0": [Infinity]}',
    ],
)
def test_broken_files_of_ours_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot read head scores"):
        read_scores(path)


def test_an_empty_header_is_a_header(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"header": {}, "scores": {"0-0": [1, 2]}}')
    assert read_scores(path) == ({}, {(0, 0): [1.0, 2.0]})
