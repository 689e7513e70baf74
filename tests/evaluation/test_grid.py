"""From settings to cells: whose scores are read, what pairings are called, what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from headkv import UserError
from headkv.config import load_group
from headkv.evaluation.grid import Cell, build_cells
from headkv.models.spec import ModelSpec
from headkv.storage import measured
from headkv.storage.head_scores import save_head_scores

CONFIG = LlamaConfig(
    hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2
)
Build = Callable[..., list[Cell]]


def write_scores(path: Path, kind: str | None, seed: int) -> Path:
    """A score file of a kind, or of the published shape, which has no header."""
    table = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed))
    save_head_scores(path, [table], {"kind": kind} if kind else None)
    return path


@pytest.fixture
def build(
    make_settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Build:
    """The cells of methods, for a model that has no files but those in `tmp_path/data`."""
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "DATA", tmp_path / "data")

    def build(methods: Sequence[str], spec: ModelSpec | None = None, **changes: Any) -> list[Cell]:
        contents = {name: load_group("method", name) for name in methods}
        settings = make_settings(tmp_path, methods=contents, **changes)
        return build_cells(settings, spec or ModelSpec("mine", "somewhere"), CONFIG)

    return build


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The data folder with what `make heads` writes for every kind."""
    folder = tmp_path / "data" / "head_scores"
    for seed, kind in enumerate(("retrieval", "retrieval_reasoning", "semantic")):
        write_scores(folder / f"mine_{kind}.json", kind, seed)
    return folder


def scores_of(cell: Cell) -> str:
    """The hash of the head scores that a cell reads."""
    parts = (cell.identity["scorer"], cell.identity["allocator"])
    (found,) = [part["head_scores"] for part in parts if "head_scores" in part]
    return str(found)


def test_scores_are_read_where_make_heads_writes_them(build: Build, made: Path) -> None:
    """The error that asks for `make heads` is satisfied by it, without an edited yaml."""
    first, second = build(["headkv_r", "headkv_r2"])
    assert scores_of(first) != scores_of(second)
    (made / "mine_retrieval.json").unlink()
    with pytest.raises(UserError, match="model mine has no retrieval head scores"):
        build(["headkv_r", "headkv_r2"])


def test_data_dir_comes_first_and_the_yaml_last(build: Build, made: Path, tmp_path: Path) -> None:
    plain = scores_of(build(["headkv_r"])[0])
    named = write_scores(tmp_path / "named.json", "retrieval", 7)
    spec = ModelSpec("mine", "somewhere", head_scores={"retrieval": str(named)})
    assert scores_of(build(["headkv_r"], spec)[0]) == plain
    own = tmp_path / "own"
    write_scores(own / "head_scores" / "mine_retrieval.json", "retrieval", 8)
    assert scores_of(build(["headkv_r"], spec, data_dir=str(own))[0]) != plain
    (made / "mine_retrieval.json").unlink()
    assert scores_of(build(["headkv_r"], spec)[0]) != plain


def test_a_file_overrides_the_kind_that_it_names(build: Build, made: Path, tmp_path: Path) -> None:
    """One file for every kind made HeadKV-R and HeadKV-R2 one method under two names."""
    plain = [scores_of(cell) for cell in build(["headkv_r", "headkv_r2"])]
    given = write_scores(tmp_path / "given.json", "retrieval", 9)
    changed = [scores_of(cell) for cell in build(["headkv_r", "headkv_r2"], head_scores=str(given))]
    assert changed[0] != plain[0] and changed[1] == plain[1]


def test_a_file_that_no_cell_reads_is_refused(build: Build, made: Path, tmp_path: Path) -> None:
    given = write_scores(tmp_path / "given.json", "semantic", 9)
    with pytest.raises(UserError, match="holds semantic scores, which no method of this run reads"):
        build(["headkv_r", "headkv_r2"], head_scores=str(given))


def test_a_file_without_a_header_serves_one_kind(build: Build, tmp_path: Path) -> None:
    given = write_scores(tmp_path / "published.json", None, 9)
    assert scores_of(build(["headkv_r"], head_scores=str(given))[0])
    with pytest.raises(UserError, match="does not say its kind") as raised:
        build(["headkv_r", "headkv_r2"], head_scores=str(given))
    assert "retrieval and retrieval_reasoning" in str(raised.value)


def test_a_file_of_another_kind_is_refused(build: Build, tmp_path: Path) -> None:
    path = write_scores(tmp_path / "other.json", "semantic", 9)
    spec = ModelSpec("mine", "somewhere", head_scores={"retrieval": str(path)})
    with pytest.raises(UserError, match="has semantic head scores where retrieval ones are wanted"):
        build(["headkv_r"], spec)


def test_a_model_without_scores_is_offered_methods_without(build: Build) -> None:
    with pytest.raises(UserError, match=r"method=\[") as raised:
        build(["headkv_r"])
    offered = str(raised.value).partition("method=[")[2].partition("]")[0].split(",")
    assert offered[:3] == ["fullkv", "streamingllm", "snapkv"]
    assert not {"headkv_r", "compresskv"} & set(offered)
    assert "model.path=somewhere" in str(raised.value)  # it has no yaml to name after MODEL=
    assert build(offered)


def test_compresskv_without_layer_importance_is_refused(
    build: Build, made: Path, tmp_path: Path
) -> None:
    """It was uniform, unannounced; uniform must be asked for."""
    with pytest.raises(UserError, match="model mine has no layer importance"):
        build(["compresskv"])
    (uniform,) = build(["compresskv"], layer_importance="uniform")
    assert uniform.identity["allocator"]["layer_importance"] == "uniform"
    path = tmp_path / "data" / "layer_importance" / "mine.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"header": {}, "importance": [1, 2, 3]}))
    (measured,) = build(["compresskv"])
    assert measured.identity["allocator"]["layer_importance"] != "uniform"


def test_beta_belongs_to_methods_that_have_one(build: Build, made: Path) -> None:
    snapkv, headkv = build(["snapkv", "headkv_r"], beta=3.0)
    assert headkv.identity["allocator"]["beta"] == headkv.method.parameter("allocator.beta") == 3.0
    assert snapkv.identity == build(["snapkv"])[0].identity
    with pytest.raises(UserError, match=r"beta=3.0 with method adakv, snapkv"):
        build(["snapkv", "adakv"], beta=3.0)


def test_scorers_and_allocators_multiply_the_cells(build: Build, made: Path) -> None:
    found = build(
        ["fullkv", "snapkv", "headkv_r"], kv_size=[48, 96], scorer=["recency", "key_norm"]
    )
    assert [(cell.name, cell.method.kv_size) for cell in found] == [
        ("fullkv", None),
        *[
            (f"{name}+{scorer}", size)
            for name in ("snapkv", "headkv_r")
            for scorer in ("recency", "key_norm")
            for size in (48, 96)
        ],
    ]
    assert {cell.identity["scorer"]["name"] for cell in found[1:]} == {"recency", "key_norm"}
    assert found[-1].identity["allocator"]["name"] == "head_scores"
    (merged,) = build(["snapkv"], entries="merge")
    assert merged.name == "snapkv+merge" and merged.identity["entries"]["name"] == "merge"
    (both,) = build(["snapkv"], scorer={"name": "recency", "sinks": 2}, allocator="pyramid")
    assert both.name == "snapkv+recency+pyramid" and both.identity["scorer"]["sinks"] == 2
    (alone,) = build(["headkv_r"], allocator="uniform")
    assert alone.name == "headkv_r+uniform"


def test_a_pairing_has_a_key_of_its_own(build: Build, made: Path) -> None:
    found = build(["headkv_r", "snapkv"]) + build(["headkv_r", "snapkv"], scorer="recency")
    assert len({json.dumps(cell.identity, sort_keys=True) for cell in found}) == 4


def test_bits_multiply_the_cells_and_decoding_names_them(build: Build) -> None:
    cells = build(["fullkv", "snapkv"], bits=[16, 4], kv_size=[128])
    names = ["fullkv", "fullkv+4bit", "snapkv", "snapkv+4bit"]
    assert [cell.name for cell in cells] == names
    assert "bits" not in cells[0].identity and cells[1].identity["bits"] == 4
    assert {cell.method.kv_size for cell in cells} == {None, 128}
    fewer = build(["snapkv"], bits=[16, 8, 4, 2], kv_size=[256], equal_bytes=True)
    sizes = [cell.method.kv_size or 0 for cell in fewer]
    assert sizes[0] == 256 and 400 < sizes[1] < 512 and 700 < sizes[2] < 1024
    (again,) = build(["snapkv"], kv_size=[128], decode_kv_size=96, compress_every=32)
    assert again.name == "snapkv+decode96every32"
    assert again.identity["decoding"] == [96, 32]
    with pytest.raises(UserError, match="below snapkv"):
        build(["snapkv"], kv_size=[128], decode_kv_size=96, compress_every=4)


def test_a_probe_names_its_cells_and_leaves_them_where_they_are_compressed(build: Build) -> None:
    asked = {"compress_on": ("context",), "probe": "task", "probe_chunks": 2, "rerotate": True}
    full, probed = build(["fullkv", "beyond_rag"], **asked)
    assert [full.name, probed.name] == ["fullkv", "beyond_rag+task+chunks2+rerotated"]
    assert full.compress_on == probed.compress_on == "context"
    assert probed.identity["probe"] == "task" and "probe" not in full.identity
