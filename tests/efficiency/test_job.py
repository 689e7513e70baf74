"""What the efficiency experiment and its benchmark write; how fast anything is, no test says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from headkv import CompressedCache, UserError, build_method
from headkv.__main__ import run
from headkv.config import ROOT, compose
from headkv.efficiency import job, workload
from headkv.efficiency.job import run_efficiency
from headkv.efficiency.measure import PeakMemory, Run, Spans, dynamic_bytes, spread
from headkv.efficiency.workload import random_workload

SHAPE = {
    "name": "tiny",
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
ENTRY = 2 * 16 * 4  # bytes of one token in one head
PLAN = [
    "method=[fullkv,snapkv,adakv,headkv_r2]",
    "kv_size=[20,30]",
    "lengths=[60,90]",
    "new_tokens=[1,3]",
    "repeats=2",
    "threads=1",
]


@pytest.fixture(autouse=True)
def same_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(output: Path, *overrides: str) -> dict[str, Any]:
    own = ["random_weights=true", *PLAN, f"output_dir={output}"]
    return compose("efficiency", [*own, *overrides]) | {"shape": SHAPE}


def rows(files: list[Path]) -> dict[str, list[dict[str, Any]]]:
    return {
        str(Path(*file.parts[-3:])): [json.loads(line) for line in file.open()] for file in files
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    run_efficiency(config(folder))
    return folder


def test_rows_are_complete(results: Path) -> None:
    found = rows(sorted((results / "efficiency" / "tiny").rglob("*.jsonl")))
    methods = ["snapkv", "adakv", "headkv_r2"]
    cells = ["dynamic_cache/full", "fullkv/full", *(f"{m}/{k}" for m in methods for k in (20, 30))]
    assert set(found) == {f"{cell}/{length}.jsonl" for cell in cells for length in (60, 90)}
    for path, lines in found.items():
        (row,) = lines
        name, size, _ = path.split("/")
        kept = row["prompt_tokens"] if size == "full" else int(size)
        assert row["id"] == str(row["prompt_tokens"]) == path.split("/")[2].removesuffix(".jsonl")
        assert row["kept_tokens"] == kept * 3 * 2
        assert row["cache_bytes"] == row["kept_tokens"] * ENTRY
        end = row["cache_bytes"] + 2 * 3 * 2 * ENTRY  # two steps: the third token is not fed
        held = row["held_bytes"]
        assert row["cache_bytes"] <= held["after_prefill"] <= row["cache_bytes"] * 1.02
        assert end <= held["at_end"] <= end * 1.02
        assert set(row["seconds"]) == {"first_token", "compress", "token", "total"}
        assert set(row["seconds"]["total"]) == {"1", "3"}
        assert row["seconds"]["total"]["1"] == row["seconds"]["first_token"]
        for spreading in (*row["seconds"]["total"].values(), row["compress_share"]):
            assert spreading["min"] <= spreading["median"] <= spreading["max"]
        assert (row["compress_share"]["max"] == 0) == (name == "dynamic_cache")
        assert row["new_tokens"] == 3 and row["repeats"] == 2 and row["threads"] == 1
        assert row["weights"] == "random" and row["prompt"] == "random tokens"
        scores = "synthetic, skewed" if name.startswith("headkv") else None
        assert row["head_scores"] == scores
        assert row["attention"] == ("sdpa" if name == "dynamic_cache" else "headkv")
    record = json.loads((results / "efficiency" / "tiny" / "run.json").read_text())
    assert record["outcome"] == {"measured": 16, "present": 0, "out_of_memory": []}


def test_peak_memory_shows_that_layers_are_freed(results: Path) -> None:
    """A compressed layer gives its full keys and values back before the next one makes its own."""
    folder = results / "efficiency" / "tiny"
    peak = {
        name: json.loads((folder / name / "90.jsonl").read_text())["peak_bytes"]
        for name in ("dynamic_cache/full", "fullkv/full", "snapkv/20")
    }
    layer = 2 * 90 * ENTRY
    freed = 3 * 2 * (90 - 20) * ENTRY
    assert 3 * layer < peak["fullkv/full"] and 3 * layer < peak["dynamic_cache/full"]
    assert peak["fullkv/full"] - peak["snapkv/20"] == pytest.approx(freed, rel=0.1)


def test_a_rerun_does_only_what_is_missing(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headkv")
    few = ["method=[snapkv,headkv_r2]", "kv_size=30", "lengths=[60]"]
    gone = results / "efficiency" / "tiny" / "snapkv" / "30" / "60.jsonl"
    gone.unlink()
    files = run_efficiency(config(results, *few))
    assert "1 rows written, 2 were there" in caplog.text and gone in files
    run_efficiency(config(results, *few))
    assert "0 rows written, 3 were there" in caplog.text
    again = rows(run_efficiency(config(results, *few, "force=true")))
    assert "3 rows written, 0 were there" in caplog.text
    for path, lines in again.items():
        assert len(lines) == 2 and lines[0]["run_key"] == lines[1]["run_key"], path
    other = rows(run_efficiency(config(results, *few, "new_tokens=[2]")))
    assert all(lines[-1]["run_key"] != lines[0]["run_key"] for lines in other.values())


def test_protocols_do_not_share_files(tmp_path: Path) -> None:
    overrides = ["protocol=paper", "method=[snapkv]", "kv_size=20", "lengths=[60]"]
    files = run_efficiency(config(tmp_path, *overrides, "dynamic_cache=false"))
    assert [file.name for file in files] == ["60@paper-query_head.jsonl"]
    assert rows(files)["snapkv/20/60@paper-query_head.jsonl"][0]["kept_tokens"] == 20 * 3 * 6


def test_cells_without_memory_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job.measure

    def measure(subject: Any, *others: Any) -> dict[str, Any]:
        if subject.name == "fullkv":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(subject, *others)

    monkeypatch.setattr(job, "measure", measure)
    with pytest.raises(UserError, match="no memory for fullkv at 60; allowed"):
        run_efficiency(config(tmp_path, "method=[fullkv,snapkv]", "lengths=[60]", "kv_size=20"))
    written = sorted(path.parts[-3] for path in tmp_path.rglob("*.jsonl"))
    assert written == ["dynamic_cache", "snapkv"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lengths=[]", "lengths="),
        ("lengths=[60,0]", "lengths=0"),
        ("new_tokens=many", "new_tokens='many'"),
        ("repeats=0", "repeats=0"),
        ("warmup=[1,2]", "warmup=\\[1, 2\\]"),
        ("threads=none", "threads='none'"),
        ("force=1", "force=1"),
        ("random_weights=maybe", "random_weights='maybe'"),
        ("task=single", "task"),
        ("limit=3", "limit"),
        ("compress_on=context", "compress_on"),
        ("beta=chosen", "beta=chosen"),
        ("kv_size=8", "kv_size=8 does not exceed"),
        ("model.dtype=int8", "unknown dtype 'int8'"),
    ],
)
def test_mistakes_write_nothing(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        run_efficiency(config(tmp_path / "out", override))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 3}, "unknown key of shape 'layers'"),
        ({"hidden_size": "wide"}, r"shape\.hidden_size='wide'"),
        ({"num_attention_heads": 5}, "no model of shape"),
    ],
)
def test_impossible_shapes(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        run_efficiency({**config(tmp_path / "out"), "shape": {**SHAPE, **change}})


def test_the_script_reads_essays_with_the_real_model(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    load_once: Any,
) -> None:
    monkeypatch.setattr(workload, "load_model", load_once)
    arguments = [
        "method=snapkv",
        "kv_size=40",
        "lengths=64",
        "new_tokens=2",
        "repeats=1",
        "threads=1",
        f"output_dir={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", ["run_efficiency.py"])
    run("efficiency", arguments)
    assert "2 rows written" in capsys.readouterr().err
    found = rows(sorted(tmp_path.rglob("*.jsonl")))
    assert found["snapkv/40/64.jsonl"][0]["kept_tokens"] == 40 * 30 * 3
    assert {row["prompt"] for (row,) in found.values()} == {"essays"}
    with pytest.raises(UserError, match="up to 8192, its context length"):
        run_efficiency(config(tmp_path, "random_weights=false", "lengths=8192"))


def test_peak_memory_is_exact() -> None:
    before = torch.ones(1000)
    with PeakMemory(torch.device("cpu")) as peak:
        first = torch.ones(2000)
        del first
        second = torch.ones(1500)
        third = second + second
        del before
    assert peak.bytes == 4 * 3000 and len(third) == 1500


def test_a_run_answers_as_generate_does(tiny: Any) -> None:
    ids = torch.randint(3, 97, (1, 50), generator=torch.Generator().manual_seed(0))
    method = build_method("snapkv", kv_size=20)

    def caches() -> list[Any]:
        return [DynamicCache(config=tiny.config), CompressedCache(tiny.config, method)]

    for ours, theirs in zip(caches(), caches(), strict=True):
        run = Run(tiny, ours, ids)
        run.prefill()
        steps = run.decode(3) + run.decode(3)
        tokens = tiny.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=theirs,
            do_sample=False,
            max_new_tokens=7,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert len(steps) == 6 and torch.equal(run._next, tokens[:, -1:])
    cache = DynamicCache(config=tiny.config)
    Run(tiny, cache, ids).prefill()
    assert dynamic_bytes(cache) == 50 * 3 * 2 * ENTRY


def test_watching_leaves_nothing_behind(tiny: Any) -> None:
    cache = CompressedCache(tiny.config, build_method("snapkv", kv_size=20))
    run = Run(tiny, cache, torch.full((1, 40), 5))
    spans = Spans(run.clock)
    with spans.watch(cache.layers, "receive"):
        first = run.prefill()
    assert 0 < spans.seconds < first
    assert all("receive" not in vars(layer) for layer in cache.layers)
    assert spread([3, 1, 2]) == {"median": 2, "min": 1, "max": 3}


def test_random_prompts_repeat_where_they_must(tmp_path: Path) -> None:
    workload = random_workload(SHAPE, "float32", 200, 0, tmp_path / "scores.json")
    assert workload.ids(500).shape == (1, 500)
    assert torch.equal(workload.ids(500)[:, :200], workload.ids(500)[:, 200:400])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("KVPRESS_PYTHON", raising=False)
    from bench import efficiency as bench_efficiency

    monkeypatch.setattr(bench_efficiency, "LLAMA_8B", SHAPE)
    monkeypatch.setattr(bench_efficiency, "WARM_UP", 40)
    return bench_efficiency


STUB = """
from contextlib import contextmanager
class SnapKVPress:
    def __init__(self, ratio, window_size, kernel_size):
        self.ratio = ratio
    def forward_hook(self, module, inputs, kwargs, output):
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        kept = round(layer.keys.shape[2] * (1 - self.ratio))
        layer.keys = layer.keys[:, :, :kept].clone()
        layer.values = layer.values[:, :, :kept].clone()
    @contextmanager
    def __call__(self, model):
        hooks = [layer.self_attn.register_forward_hook(self.forward_hook, with_kwargs=True)
                 for layer in model.model.layers]
        yield
        for hook in hooks:
            hook.remove()
class AdaKVPress(SnapKVPress):
    def __init__(self, press):
        self.ratio = 0
"""


def test_bench_with_a_stand_in_for_kvpress(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kvpress.py").write_text(STUB)
    (tmp_path / "kvpress-0.dist-info").mkdir()
    (tmp_path / "kvpress-0.dist-info" / "METADATA").write_text("Name: kvpress\nVersion: 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KVPRESS_PYTHON", sys.executable)
    output = tmp_path / "bench.json"
    bench.main(
        [
            "--random",
            "--lengths",
            "60",
            "--kv-size",
            "20",
            "--steps",
            "6",
            "--repeats",
            "2",
            "--output",
            str(output),
        ]
    )
    said = capsys.readouterr().out
    assert "kvpress adakv" in said and "headkv dynamic_cache" in said
    record = json.loads(output.read_text())
    found = {(row["side"], row["name"]): row for row in record["measured"]}
    assert record["kvpress"]["kvpress"] == "0" and len(found) == 8
    for (side, name), row in found.items():
        full = name in ("none", *bench.METHODS[:2]) or (side, name) == ("kvpress", "adakv")
        assert row["entry_bytes"] == (60 if full else 20) * 3 * 2 * ENTRY
        assert row["held_at_end"] >= row["needed_at_end"] > row["held"]
        assert len(row["steps"]) == 12 and len(row["first"]) == 2 and row["peak"] > 0
        assert row["token"] > 0 and (row["share"] > 0) == (name not in ("none", "dynamic_cache"))
    assert all(check["holds"] is not None for check in record["checks"])


def test_checks_say_what_holds(bench: Any) -> None:
    from bench.report import Measured, checks, table

    def one(side: str, name: str, token: float, held: int) -> Measured:
        return Measured(
            side, name, 7500, [10.0], [0.2], [token], held, held, 0, held + 100, held + 100, held
        )

    found = [
        one("headkv", "dynamic_cache", 0.2, 300 << 20),
        one("headkv", "snapkv", 0.05, 5 << 20),
        one("headkv", "adakv", 0.06, 5 << 20),
        one("headkv", "headkv_r2", 0.05, 7 << 20),
    ]
    said = {str(check).partition(":")[0] for check in checks(found, 128, True)}
    assert "FAILS        adakv at 7500, a token against our SnapKV" in said
    assert "FAILS        headkv_r2 at 7500 holds" in said
    assert "holds        adakv at 7500 holds" in said
    assert "not measured our SnapKV at 7500 against kvpress's, a token" in said
    found += [one("kvpress", "snapkv", 0.049, 5 << 20), one("kvpress", "adakv", 0.3, 300 << 20)]
    said = {str(check).partition(":")[0] for check in checks(found, 128, True)}
    assert "FAILS        our SnapKV at 7500 against kvpress's, a token" in said
    assert "holds        adakv at 7500 faster than kvpress's Ada-KV" in said
    assert "FAILS        headkv_r2 at 7500 smaller than kvpress's Ada-KV" in said
    assert "60.0x" in table(found, 7500)


def test_bench_goes_on_without_kvpress(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KVPRESS_PYTHON", str(tmp_path / "missing"))
    output = tmp_path / "bench.json"
    small = ["--random", "--lengths", "60", "--kv-size", "20", "--steps", "3", "--repeats", "1"]
    bench.main([*small, "--output", str(output)])
    assert "kvpress is left out: make bench-peer" in capsys.readouterr().err
    assert json.loads(output.read_text())["kvpress"] is None
