import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from headkv import UserError, load_head_scores, save_head_scores
from headkv.config import places
from headkv.storage import measured
from headkv.storage.head_scores import architecture_id, find_head_scores, read_scores

CONFIG = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=32)
OTHER = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=64)


def sample() -> list[torch.Tensor]:
    return [torch.tensor([[0.5, 0, 0, 0.25]] * 3), torch.tensor([[0.25, 0, 0.5, 0.25]] * 3)]


@pytest.mark.parametrize("header", [None, {"model": "m", "architecture": architecture_id(CONFIG)}])
def test_round_trip(tmp_path: Path, header: dict[str, str] | None) -> None:
    path = tmp_path / "scores.json"
    save_head_scores(path, sample(), header)
    got = load_head_scores(path, CONFIG)
    assert torch.allclose(got, torch.stack(sample()).mean(0).double())
    assert read_scores(path)[0] == (header or {})
    assert list(tmp_path.iterdir()) == [path]


def test_published_shape_is_read_by_key_not_by_order(tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    keys = [f"{layer}-{head}" for layer in range(3) for head in range(4)]
    path.write_text(json.dumps({key: [int(key[0]), int(key[2])] for key in reversed(keys)}))
    wanted = [[(layer + head) / 2 for head in range(4)] for layer in range(3)]
    assert load_head_scores(path, CONFIG).tolist() == wanted


def test_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    save_head_scores(path, sample(), {"model": "m", "architecture": architecture_id(CONFIG)})
    with pytest.raises(UserError, match="computed on another model"):
        load_head_scores(path, OTHER)
    assert load_head_scores(path, OTHER, allow_foreign=True).shape == (3, 4)
    with pytest.raises(UserError, match="3 layers x 4 heads"):
        load_head_scores(path, LlamaConfig(num_hidden_layers=2, num_attention_heads=4))


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": [1]}', '{"0-0": 3}', "{}", '{"0-0": ["x"]}'])
def test_what_is_no_score_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_head_scores(path, CONFIG)
    assert "\n" not in str(raised.value)


def test_a_kind_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    save_head_scores(path, sample(), {"model": "m", "kind": "retrieval"})
    assert load_head_scores(path, CONFIG, kind="retrieval").shape == (3, 4)
    with pytest.raises(UserError, match="has retrieval head scores where semantic ones are wanted"):
        load_head_scores(path, CONFIG, kind="semantic")
    save_head_scores(path, sample())  # the published shape does not say
    assert load_head_scores(path, CONFIG, kind="semantic").shape == (3, 4)


@pytest.mark.parametrize("given", [None, torch.nn.Linear(1, 1)])
def test_a_missing_config_is_one_line(given: object, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    save_head_scores(path, sample())
    with pytest.raises(UserError, match=r"give model\.config"):
        load_head_scores(path, given)


def test_files_are_found_where_make_heads_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, package, data = tmp_path / "root", tmp_path / "package" / "data", tmp_path / "mine"
    for module in (places, measured):
        monkeypatch.setattr(module, "ROOT", root)
        monkeypatch.setattr(module, "DATA", package)
    assert find_head_scores("m", "retrieval", data) is None
    # A file that was named is named in the error of who reads it.
    assert find_head_scores("m", "retrieval", data, "x.json") == root / "x.json"
    for folder in (package, root / "data", data):  # what comes later is found first
        path = folder / "head_scores" / "m_retrieval.json"
        path.parent.mkdir(parents=True)
        path.touch()
        assert find_head_scores("m", "retrieval", data) == path
        assert find_head_scores("m", "retrieval", data, "x.json") == path
    assert find_head_scores("m", "semantic", data) is None
    assert find_head_scores("m", "semantic", None, str(path)) == path


def test_no_test_that_counted_writes_nothing(tmp_path: Path) -> None:
    for counted in ([], [torch.zeros(3, 4)]):
        with pytest.raises(UserError, match="no head scored"):
            save_head_scores(tmp_path / "scores.json", counted)
    assert not list(tmp_path.iterdir())
