"""Broken model folders: each is refused in one line that says what to do, before anything runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headkv.errors import UserError
from headkv.models.loading import load_model
from headkv.models.prompts import encode, end_token_ids
from headkv.models.spec import ModelSpec


@pytest.fixture(scope="module")
def sound(
    make_decoder: Callable[..., Any],
    byte_tokenizer: Callable[..., Any],
    chatml: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a tiny model with tied embeddings, which are stored once."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    tokenizer = byte_tokenizer(chatml)
    make_decoder("llama", vocab_size=len(tokenizer), tie_word_embeddings=True).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def load(folder: Path) -> Any:
    return load_model(ModelSpec(name="m", path=str(folder), dtype="float32"), device="cpu")


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        model, tokenizer = load(folder)
        encode(tokenizer, "text", chat_template=True, max_prompt_tokens=None)
        end_token_ids(tokenizer, model.generation_config)
        ModelSpec(name="m", path=str(folder)).prompt_limit(model.config)
    line = str(raised.value)
    assert "\n" not in line and len(line) < 300, line
    return line


def change_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_sound_folder_loads(folder: Path) -> None:
    model, _ = load(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks model.norm.weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), "another shape of model.norm"),
        (lambda t: t.update(extra=torch.ones(2)), "does not take: extra"),
        (
            lambda t: [t.update({f"other.{key}": t.pop(key)}) for key in list(t)],
            "more tensors",
        ),
    ],
)
def test_tensors_are_refused_by_name(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    change_weights(folder, change)
    assert words in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 10**30},
        {"hidden_size": -1},
        {"hidden_size": "abc"},
        {"max_position_embeddings": "abc"},
        {"max_position_embeddings": None},
        {"rope_parameters": {"rope_type": "unheard of"}},
        {"eos_token_id": "abc"},
        {"vocab_size": 8},
        {"model_type": "unheard of"},
        {"num_attention_heads": 0},
    ],
    ids=str,
)
def test_configs(folder: Path, changes: dict[str, Any]) -> None:
    change_json(folder / "config.json", changes)
    (folder / "generation_config.json").unlink()
    refused(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "["),
        ("config.json", "{}"),
        ("config.json", "[" * 100_000),
        ("config.json", "\xff\xfe"),
        ("model.safetensors", "not safetensors"),
        ("generation_config.json", '{"eos_token_id": "abc"}'),
        ("generation_config.json", '{"eos_token_id": [2, 100000]}'),
        ("chat_template.jinja", "{% for %}"),
        ("chat_template.jinja", "{{ 1 / 0 }}"),
        ("chat_template.jinja", "{{ raise_exception('no') }}"),
        ("chat_template.jinja", "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__() }}"),
        ("chat_template.jinja", "always the same"),
    ],
)
def test_files(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    refused(folder)


def test_an_index_that_names_other_tensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"nothing": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder)


def test_a_broken_conversion_says_what_to_delete(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headkv.models import loading

    monkeypatch.setattr(loading, "model_folder", lambda spec: folder)
    (folder / "model.safetensors").write_text("")
    with pytest.raises(UserError, match=f"delete {folder}: it is made anew"):
        load_model(ModelSpec(name="m", gguf_wheel=True), device="cpu")


def test_a_broken_gguf_says_what_to_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headkv.downloads import wheels
    from headkv.models import loading

    (tmp_path / wheels.GGUF_FILE).write_bytes(b"GGUFxx")
    monkeypatch.setattr(wheels, "fetch_asset", lambda asset: tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=f"delete {tmp_path}: it is fetched anew"):
        loading._convert_gguf(tmp_path / "out")
