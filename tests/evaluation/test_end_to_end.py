"""The real model through the real scripts, on short needles."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headkv import CompressedCache, build_method, load_head_scores
from headkv.benchmarks.needle import Needle
from headkv.config import ROOT
from headkv.evaluation.answers import PrefilledBatch
from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.evaluator import Evaluator
from headkv.models.prompts import encode, end_token_ids

SMALL = [
    "benchmark.lengths=[256]",
    "benchmark.depths=[0.5]",
    "benchmark.per_cell=2",
    "benchmark.max_new_tokens=10",
    "task=single",
    "method=[fullkv,snapkv,adakv,headkv_r,headkv_r2]",
    "kv_size=[48,96]",
]


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {
        str(path.relative_to(folder)): [json.loads(line) for line in path.open()]
        for path in sorted(folder.rglob("*.jsonl"))
    }


@pytest.fixture(scope="module")
def results(needle_script: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    needle_script(*SMALL, f"output_dir={folder}", **os.environ)  # as a user runs it
    return folder


def test_rows_say_what_was_kept(results: Path) -> None:
    found = rows(results / "needle" / "smollm2_135m")
    sizes = {
        "fullkv/full",
        *(f"{m}/{k}" for m in ("snapkv", "adakv", "headkv_r", "headkv_r2") for k in (48, 96)),
    }
    assert set(found) == {f"{size}/single.jsonl" for size in sizes}
    for path, lines in found.items():
        assert [row["id"] for row in lines] == ["single-256-d050-0", "single-256-d050-1"]
        for row in lines:
            assert row["chat_template"] is True and row["end_tokens"] == [2]
            about = row["fidelity"]
            if path.startswith("fullkv"):
                assert about["kl"] < 1e-4 and about["agreement"] == 1
                assert about["reference_logprob"] == about["reference_logprob_full"]
            assert about["reference_logprob_full"] < 0 <= about["agreement"] <= 1
            assert row["prompt_tokens"] > 256
            kept = row["prompt_tokens"] if path.startswith("fullkv") else row["kv_size"]
            assert row["kept_tokens"] == kept * 30 * 3
            assert row["cache_bytes"] == row["kept_tokens"] * 2 * 64 * 4
            assert row["full_cache_bytes"] == row["prompt_tokens"] * 30 * 3 * 2 * 64 * 4
            assert row["score"] == row["scores"]["contains"]
    record = json.loads((results / "needle" / "smollm2_135m" / "run.json").read_text())
    assert record["outcome"]["answered"] == 18 and record["commit"] and record["weights"]


def test_every_cell_equals_stock_generate_alone(results: Path, smollm2: Any) -> None:
    """Shared prefill and shared decoding against one `model.generate` for each cell."""
    model, tokenizer = smollm2
    asked = [(("snapkv", 48), ("headkv_r2", 48)), (("adakv", 96), ("fullkv", None))]
    examples = Needle("single", 256, (0.5,), 2, max_new_tokens=10).examples(tokenizer)
    for example, cells in zip(examples, asked, strict=True):
        prompt = encode(tokenizer, example.prompt, chat_template=True, max_prompt_tokens=None)
        ids = torch.tensor([prompt.input_ids])
        for name, size in cells:
            scores = (
                load_head_scores(
                    ROOT / "data/head_scores/smollm2_135m_retrieval_reasoning.json", model.config
                )
                if name == "headkv_r2"
                else None
            )
            method = build_method(name, kv_size=size, head_scores=scores)
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=CompressedCache(model.config, method, prompt.template_tokens),
                max_new_tokens=example.max_new_tokens,
                do_sample=False,
                eos_token_id=list(end_token_ids(tokenizer, model.generation_config)),
            )
            answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            path = results / "needle/smollm2_135m" / name / str(size or "full") / "single.jsonl"
            row = next(row for row in map(json.loads, path.open()) if row["id"] == example.id)
            assert row["prediction"] == answer.strip()


@pytest.mark.parametrize(
    "how", [["batch_size=2", "cells_per_batch=3"], ["fidelity=false", "cells_per_batch=1"]]
)
def test_other_batches_have_the_same_rows(
    needle_script: Callable[..., str], results: Path, tmp_path: Path, how: list[str]
) -> None:
    """Two prompts of different lengths in one prefill; every cell alone, and not measured."""
    fewer = ["method=[fullkv,snapkv,headkv_r2]", "kv_size=48"]
    needle_script(*SMALL, *fewer, *how, f"output_dir={tmp_path}")
    got, wanted = rows(tmp_path), rows(results)
    assert len(got) == 3
    own = {"seconds", "fidelity"}
    for path, lines in ((path, wanted[path]) for path in got):
        by_id = {row["id"]: row for row in got[path]}
        for row in lines:
            again = by_id[row["id"]]
            assert {k: v for k, v in again.items() if k not in own} == {
                k: v for k, v in row.items() if k not in own
            }
            if "fidelity=false" in how:
                assert again["fidelity"] is None
            else:
                assert again["fidelity"] == pytest.approx(row["fidelity"], abs=1e-3)


def test_a_rerun_does_only_what_is_missing(
    needle_script: Callable[..., str], results: Path
) -> None:
    folder = results / "needle" / "smollm2_135m"
    path = folder / "snapkv" / "48" / "single.jsonl"
    before = {p: p.read_bytes() for p in folder.rglob("*.jsonl")}
    path.write_bytes(before[path][:-30])
    said = needle_script(*SMALL, f"output_dir={results}")
    assert "1 rows written, 17 were there" in said
    strip = {"seconds", "fidelity"}  # measured in a batch of its own: the same to rounding
    for name, content in before.items():
        old = [json.loads(line) for line in content.splitlines()]
        new = [json.loads(line) for line in name.read_bytes().splitlines()]
        assert [{k: v for k, v in row.items() if k not in strip} for row in new] == [
            {k: v for k, v in row.items() if k not in strip} for row in old
        ]
    one = ["beta=2", "method=[headkv_r]", "kv_size=48"]
    said = needle_script(*SMALL, *one, f"output_dir={results}")
    assert "2 rows written" in said and "2 rows of other settings left alone" in said


def test_paper_protocol_has_files_of_its_own(
    needle_script: Callable[..., str], tmp_path: Path
) -> None:
    needle_script(
        *SMALL, "protocol=paper", "method=[pyramidkv,fullkv]", "limit=1", f"output_dir={tmp_path}"
    )
    found = rows(tmp_path / "needle" / "smollm2_135m")
    assert "pyramidkv/48/single@paper-query_head.jsonl" in found
    row = found["pyramidkv/48/single@paper-query_head.jsonl"][0]
    assert (row["protocol"], row["granularity"]) == ("paper", "query_head")
    assert row["kept_tokens"] > 48 * 30 * 9  # the published flooring overshoots


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("method=snapkvv", "unknown method 'snapkvv'"),
        ("model=smollm", "unknown model 'smollm'"),
        ("protocol=papers", "unknown protocol 'papers'"),
        ("task=double", "unknown task 'double'"),
        ("kv_size=8", "kv_size=8 does not exceed"),
        ("kv_size=10", "of the chat template"),
        ("kv_size=[64,big]", "kv_size='big'"),
        ("limit=0", "limit=0"),
        ("cells_per_batch=0", "cells_per_batch=0"),
        ("fidelity=maybe", "fidelity='maybe'"),
        ("data_dir=missing", "data_dir=missing is not a folder"),
        ("head_scores=missing.json", "cannot read head scores"),
        ("betta=2", "betta"),
        ("model.path=nowhere/to/be/found", "nowhere/to/be/found"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    needle: Callable[..., None],
    argument: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "results"
    with pytest.raises(SystemExit) as stopped:
        needle(*SMALL, f"output_dir={output}", argument)
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(said) == 1 and words in said[0] and "allowed" in said[0]
    assert not output.exists()


def test_a_failed_answer_is_no_success(
    needle: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are answered, the end says so, and the exit code is neither 0 nor the user's."""
    prefill = Evaluator.prefill

    def failing(self: Evaluator, examples: list[EncodedExample], *beginning: Any) -> PrefilledBatch:
        if examples[0].example.id.endswith("-1"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return prefill(self, examples, *beginning)

    monkeypatch.setattr(Evaluator, "prefill", failing)
    with pytest.raises(SystemExit) as stopped:
        needle(*SMALL, "method=[fullkv,snapkv]", f"output_dir={tmp_path}")
    assert stopped.value.code == 1
    assert "3 answers failed" in capsys.readouterr().err
    for lines in rows(tmp_path).values():
        assert [row.get("error") for row in lines] == [None, "CUDA out of memory"]
    record = json.loads((tmp_path / "needle" / "smollm2_135m" / "run.json").read_text())
    assert (record["outcome"]["answered"], record["outcome"]["failed"]) == (3, 3)


def test_the_question_may_come_after_compression(
    needle_script: Callable[..., str], results: Path, tmp_path: Path
) -> None:
    """With everything kept it makes no difference; with little it does, and rows say so."""
    needle_script(*SMALL, "compress_on=context", "method=[fullkv,snapkv]", f"output_dir={tmp_path}")
    found = rows(tmp_path / "needle" / "smollm2_135m")
    after = found["fullkv/full/single@corrected-kv_head-context.jsonl"]
    before = rows(results / "needle" / "smollm2_135m")["fullkv/full/single.jsonl"]
    assert [row["prediction"] for row in after] == [row["prediction"] for row in before]
    for row, whole in zip(after, before, strict=True):
        assert row["compress_on"] == "context" and row["kept_tokens"] < whole["kept_tokens"]
    for row in found["snapkv/48/single@corrected-kv_head-context.jsonl"]:
        assert row["kept_tokens"] == 48 * 30 * 3


def test_scores_of_another_shape_are_refused(
    needle_script: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(
        json.dumps({f"{layer}-{head}": [1] for layer in range(32) for head in range(32)})
    )
    said = needle_script(f"head_scores={path}", f"output_dir={tmp_path / 'out'}", code=2)
    assert "30 layers x 9 heads" in said and not (tmp_path / "out").exists()


def test_no_network_and_nothing_cached(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "run_needle.py", f"output_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HEADKV_CACHE": str(tmp_path),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "",
            "PIP_CONFIG_FILE": os.devnull,
        },
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip download" in done.stderr and not (tmp_path / "out").exists()
