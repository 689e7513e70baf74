"""Models: every yaml parses, mistakes are one line, and the embedded model is the real one."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from headkv.config import load_group, names
from headkv.downloads.cached import build_once
from headkv.errors import UserError
from headkv.models import loading, spec
from headkv.models.loading import load_model, model_folder, weights_id
from headkv.models.spec import ModelSpec, load_spec

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def embedded():
    """The embedded model, converted at most once for all test runs of this checkout."""
    return load_model("smollm2_135m", attn_implementation="sdpa", device="cpu")


@pytest.fixture(scope="module")
def tiny(tiny, embedded):
    """The tiny model with a row for every token of the embedded one's tokenizer."""
    grown = copy.deepcopy(tiny)
    grown.resize_token_embeddings(len(embedded[1]))
    return grown


@pytest.fixture(scope="module")
def tiny_folder(tiny, embedded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "my tiny model"
    tiny.save_pretrained(folder)
    embedded[1].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", names("model"))
def test_every_yaml_is_a_model(name):
    spec = load_spec(name)
    assert spec == load_spec(name, load_group("model", name)), "a composed config changes nothing"
    assert spec.name == name
    assert spec.max_prompt_tokens is not None
    assert set(load_group("model", name)) == set(loading.ModelSpec.__dataclass_fields__), (
        "a key left out could not be overridden on the command line"
    )


def test_papers_prompt_lengths():
    assert load_spec("llama3_8b").max_prompt_tokens == 7950
    assert load_spec("mistral_7b_v02").max_prompt_tokens == 31500


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("llama", {}, r"unknown model 'llama'; allowed: llama31_8b, .*smollm2_135m, an existing"),
        ("./no/such/folder", {}, "unknown model './no/such/folder'"),
        (
            "llama3_8b",
            {"max_prompt": 1},
            "unknown key of model 'max_prompt'; allowed: max_prompt_tokens, name",
        ),
        ("llama3_8b", {"max_prompt_tokens": 0}, "greater than or equal to 16"),
        ("llama3_8b", {"max_prompt_tokens": True}, "model.max_prompt_tokens=True"),
        ("llama3_8b", {"dtype": "fp8"}, "allowed: 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("llama3_8b", {"chat_template": "no"}, "allowed: true or false"),
        (
            "llama3_8b",
            {"head_scores": {"r2": "file"}},
            "model.head_scores='r2'",
        ),
        ("llama3_8b", {"path": None}, "model.path=None cannot be used"),
        ("llama3_8b", {"gguf_wheel": True}, "null always and only with gguf_wheel"),
        ("llama3_8b", {"name": "../up"}, "letters, digits"),
        ("llama3_8b", {"dtype": 16}, "model.dtype=16; allowed: 'auto'"),
        ("llama3_8b", {"teacher_forced": None}, "model.teacher_forced=None"),
        ("llama3_8b", {"teacher_forced": "semantic"}, "model.teacher_forced='semantic'"),
        ("llama3_8b", {"device_map": 0}, "model.device_map=0"),
    ],
)
def test_mistakes_are_one_line(name, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        load_spec(name, overrides)
    assert "\n" not in str(caught.value)


def test_path_says_where_a_named_model_lies(tmp_path):
    spec = load_spec("llama3_8b", load_group("model", "llama3_8b") | {"path": str(tmp_path)})
    assert (spec.name, spec.max_prompt_tokens, spec.path) == ("llama3_8b", 7950, str(tmp_path))


def test_a_stranger_inherits_nothing_from_the_embedded_model():
    composed = load_group("model", "smollm2_135m") | {"path": "org/Other-7B", "dtype": "float16"}
    spec = load_spec("smollm2_135m", composed)
    assert spec == ModelSpec(name="Other-7B", path="org/Other-7B", dtype="float16")


def test_prompt_limit_leaves_room_for_the_answer(tiny):
    unlimited = ModelSpec(name="tiny", path="tiny")
    assert tiny.config.max_position_embeddings == 2048
    assert unlimited.prompt_limit(tiny.config) == 2048 - spec.RESERVED_TOKENS
    assert load_spec("llama3_8b").prompt_limit(tiny.config) == 7950


def test_embedded_model_answers(embedded):
    model, tokenizer = embedded
    inputs = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_embedded_tokenizer_has_template_and_end_token(embedded):
    model, tokenizer = embedded
    text = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    user = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert text.startswith("<|im_start|>system\n") and text.endswith(user)
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("12345 67", ["1", "2", "3", "4", "5", "Ġ", "6", "7"]),
        # Without the digits split off first, white space before a digit would be two tokens.
        ("a  1\n\n2", ["a", "ĠĠ", "1", "ĊĊ", "2"]),
        ("it's héllo 中文 🤗", None),
        (" leading, trailing \n", None),
    ],
)
def test_embedded_tokens_round_trip(embedded, text, tokens):
    tokenizer = embedded[1]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokens is None or tokenizer.convert_ids_to_tokens(ids) == tokens


def test_interrupted_conversion_is_not_taken_for_finished(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path))
    calls = []

    def convert(folder: Path) -> None:
        calls.append(folder)
        (folder / "config.json").write_text("{}")
        if len(calls) == 1:
            raise KeyboardInterrupt
        (folder / "model.safetensors").touch()

    monkeypatch.setattr(loading, "_convert_gguf", convert)
    spec = load_spec("smollm2_135m")
    with pytest.raises(KeyboardInterrupt):
        model_folder(spec)
    assert not (tmp_path / loading.CONVERTED).exists()
    assert (model_folder(spec) / "model.safetensors").is_file()
    assert len(calls) == 2


def test_folder_loads_under_its_own_name(tiny, tiny_folder):
    assert load_spec(str(tiny_folder)).name == "my_tiny_model"
    model, _ = load_model(str(tiny_folder), device="cpu")
    assert model.config._attn_implementation == "headkv"
    assert weights_id(model) == weights_id(tiny)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "cannot read the model's config"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("model.safetensors", b"cut short", "does not load"),
        ("config.json", b'{"model_type": "no_such_type"}', "does not load"),
    ],
)
def test_broken_folder_is_one_line(tiny_folder, tmp_path, file, content, message):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_model(str(folder), attn_implementation="sdpa", device="cpu")
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_opened(tiny, tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save(tiny.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="in safetensors"):
        load_model(str(folder), attn_implementation="sdpa", device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "no_such_device"])
def test_device_that_is_not_there(device):
    with pytest.raises(UserError, match=f"device '{device}' cannot be used here"):
        load_model("smollm2_135m", device=device, attn_implementation="sdpa")


def test_missing_pad_token_is_the_end_token(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "padless"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    _, loaded = load_model(str(folder), attn_implementation="sdpa", device="cpu")
    assert loaded.pad_token == loaded.eos_token


def test_weights_id_of_a_folder_follows_its_content(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path / "cache"))
    folder = build_once(tmp_path / "a", lambda path: _write(path / "model.safetensors", b"one"))
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    first = weights_id(folder)
    assert first == weights_id(copy) == weights_id(folder)
    _write(folder / "model.safetensors", b"other")
    assert weights_id(folder) != first
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors"):
        weights_id(folder)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_weights_id_of_a_model_follows_its_values(tiny_folder):
    model, _ = load_model(str(tiny_folder), device="cpu")
    first = weights_id(model)
    assert len(first) == 16
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    assert weights_id(model) != first
