"""What the inspector says was kept, against what the methods chose and what the rows say."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM

from headkv import Prefilled, UserError, build_method, prefill
from headkv.cli import front_door
from headkv.config import load_group, names
from headkv.evaluation import assembly
from headkv.evaluation.assembly import Assembly
from headkv.evaluation.kept_tokens import inspect_run, main, pack, token_texts
from headkv.evaluation.settings import Settings
from headkv.generation.prefill import kept_positions
from headkv.methods import Method

TOKENS = 61


@pytest.fixture(scope="module")
def method(make_method: Callable[..., Method]) -> Callable[..., Method]:
    """A method of a small cache for the tiny model."""
    return lambda name, **given: make_method(name, 20, **given)


def prompt(
    model: LlamaForCausalLM, template_tokens: int = 0, methods: list[Method] | None = None
) -> Prefilled:
    ids = torch.arange(TOKENS)[None] * 7 % 97
    return prefill(model, {"input_ids": ids}, template_tokens, methods, ends=ids % 10 == 0)


@pytest.mark.parametrize("name", names("method"))
def test_positions_are_those_the_method_chose(
    tiny: LlamaForCausalLM, name: str, method: Callable[..., Method]
) -> None:
    """By query head; by KV head it is in every method's contract."""
    chosen = method(name, granularity="query_head")
    prefilled = prompt(tiny, 3, [chosen])
    before = [layer.values.clone() for layer in prefilled.layers]
    found = kept_positions(prefilled, chosen)
    assert len(found) == tiny.config.num_hidden_layers
    for heads in found:
        assert len(heads) == 6
        assert all(torch.equal(head, head.unique()) for head in heads)  # ascending
    counts = torch.tensor([[len(head) for head in heads] for heads in found])
    assert torch.equal(counts, prefilled.compress(chosen).kept_tokens[0])
    assert all(map(torch.equal, before, (layer.values for layer in prefilled.layers)))


def test_the_full_cache_keeps_all(tiny: LlamaForCausalLM) -> None:
    everything = torch.arange(TOKENS)
    for heads in kept_positions(prompt(tiny), build_method("fullkv", kv_size=20)):
        assert all(torch.equal(head, everything) for head in heads)


def test_sliding_layers_keep_their_window(method) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=97,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="headkv").eval()
    sliding, full = kept_positions(prompt(model), method("snapkv"))
    assert all(torch.equal(head, torch.arange(TOKENS - 15, TOKENS)) for head in sliding)
    assert [len(head) for head in full] == [20, 20]


def test_packed_positions_come_back() -> None:
    kept = [[torch.tensor([0, 7, 8, 20]), torch.tensor([])], [torch.arange(21), torch.tensor([1])]]
    packed = pack([[head.long() for head in heads] for heads in kept], 21)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(2, 2, 3)
    unpacked = np.unpackbits(bits, axis=-1, bitorder="little")
    for layer in range(2):
        for head in range(2):
            assert unpacked[layer, head].nonzero()[0].tolist() == kept[layer][head].tolist()


@pytest.mark.parametrize("text", ["A café, 日本語 and 🙂.\n<script>", "plain " * 20])
def test_texts_join_to_the_prompt(text: str, byte_tokenizer) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert texts[0] == "<s>"
    assert "".join(texts[1:]) == text
    assert not any("\ufffd" in each for each in texts)


@pytest.fixture(scope="module")
def run(
    needle_script: Callable[..., str], needle_grid: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small run with the real tokenizer."""
    folder = tmp_path_factory.mktemp("results")
    needle_script(
        "benchmark.lengths=[256]",
        "benchmark.depths=[0.5]",
        "benchmark.per_cell=2",
        "task=[single,keyed]",
        "method=[fullkv,adakv,lava]",
        "kv_size=48",
        "fidelity=false",
        needle_grid.arguments[-1],
        f"output_dir={folder}",
    )
    return folder / "needle" / "tiny"


def test_a_run_is_inspected_as_it_was_answered(run: Path) -> None:
    """Same prompt, same cells, same counts, same keys as the rows of the run."""
    assert main([str(run)]) == 0
    files = sorted((run / "inspect").iterdir())
    assert [path.stem for path in files] == [
        "keyed-keyed-256-d050-0",
        "single-single-256-d050-0",
    ]
    for path in files:
        found = json.loads(path.read_text())
        assert found["tokens"][0] == "<|im_start|>"
        assert found["answers"][0] in "".join(found["tokens"])
        assert len(found["cells"]) == 3
        for cell in found["cells"]:
            size = cell["kv_size"] or "full"
            lines = (run / cell["method"] / str(size) / f"{found['task']}.jsonl").read_text()
            rows = [json.loads(line) for line in lines.splitlines()]
            (row,) = (row for row in rows if row["id"] == found["id"])
            assert cell["run_key"] == row["run_key"]
            assert cell["kept_tokens"] == row["kept_tokens"]
            assert cell["shape"] == [2, 2, row["prompt_tokens"]]
            bits = np.frombuffer(zlib.decompress(base64.b64decode(cell["kept"])), np.uint8)
            assert np.unpackbits(bits).sum() == row["kept_tokens"]


def test_another_run_of_the_same_prompt_adds_its_cells(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["config"]["methods"] = {"snapkv": load_group("method", "snapkv")}
    other = run / "other.json"
    other.write_text(json.dumps(record))
    example = "single-256-d050-1"
    path = run / "inspect" / f"single-{example}.json"
    for arguments in ([], ["--run", str(other)], ["--run", str(other)]):
        assert main([str(run), "--id", example, *arguments]) == 0
    methods = [cell["method"] for cell in json.loads(path.read_text())["cells"]]
    assert methods == ["fullkv", "adakv", "lava", "snapkv"]


def test_a_sample_run_is_inspected_by_its_benchmarks_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`longbench_sample` is LongBench on its sample; which class that is, no record can say."""
    asked: dict[str, object] = {}

    def stop(settings: Settings, *others: object) -> Assembly:
        asked.update(settings.benchmark or {})
        raise UserError("far enough", allowed="", do="")

    monkeypatch.setattr(assembly, "assemble", stop)
    config = {
        "model": {"name": "smollm2_135m"},
        "methods": {"snapkv": load_group("method", "snapkv")},
        "kv_size": 48,
        "protocol": load_group("protocol", "corrected"),
        "seed": 0,
        "fidelity": False,
        "benchmark": {"_target_": "os.system", "task": "qasper", "protocol": "corrected"},
    }
    with pytest.raises(UserError, match="far enough"):
        inspect_run(tmp_path / "longbench_sample" / "any", {"config": config}, 1, [])
    assert asked["_target_"] == load_group("benchmark", "longbench")["_target_"]
    assert asked["task"] == "qasper"
    for other in ("efficiency", "heads"):
        with pytest.raises(UserError, match="unknown benchmark") as raised:
            inspect_run(tmp_path / other / "any", {"config": config}, 1, [])
        assert "longbench" in raised.value.allowed and other not in raised.value.allowed


@pytest.mark.parametrize(
    ("change", "expected"), [("id", "unknown id"), ("key", "without a usable"), ("file", "read")]
)
def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, expected: str
) -> None:
    record = json.loads((run / "run.json").read_text())
    if change == "key":
        del record["config"]["seed"]
    path = tmp_path / "run.json"
    if change != "file":
        path.write_text(json.dumps(record))
    assert front_door(main, [str(run), "--run", str(path), "--id", "no-such"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
