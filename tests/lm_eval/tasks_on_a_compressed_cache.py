"""lm-evaluation-harness's own model against ours, on local tasks without network.

`make test-lm-eval` installs the extra and runs this.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from headkv import CompressedCache, load_model
from headkv.cli import front_door
from headkv.lm_eval.__main__ import main
from headkv.lm_eval.harness import Tasks, evaluate
from headkv.lm_eval.model import HeadKVLM, build

WORDS = ["apple", "river", "stone", "cloud", "tiger", "music", "paper", "green", "north", "seven"]
LAYERS_AND_HEADS = 30 * 3
GENERATE = """
output_type: generate_until
doc_to_text: "{{text}}\\n{{question}} The secret word is"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
"""
CHOOSE = """
output_type: multiple_choice
doc_to_text: "{{text}}\\n{{question}} The secret word is"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{metric: acc}]
"""
WHOLE = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with local tasks and three documents of different lengths."""
    folder, draw = tmp_path_factory.mktemp("tasks"), random.Random(0)
    lines = []
    for number in range(3):
        filler = " ".join(draw.choice(WORDS) for _ in range(90 + 20 * number))
        lines.append(
            {
                "text": f"{filler}. The secret word is {WORDS[number]}. {filler}",
                "question": "What is the secret word?",
                "answer": WORDS[number],
                "choices": [*WORDS[number : number + 2], "secret agent man"],
                "gold": 0,
            }
        )
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    head = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    bodies = {"generate": GENERATE, "choose": CHOOSE, "whole": WHOLE}
    bodies["broken"] = GENERATE.replace("{{text}}", "{{texxt}}")
    for name, body in bodies.items():
        (folder / f"{name}.yaml").write_text(f"task: toy_{name}\n{head}test_split: test\n{body}")
    return folder


def ours(tasks: Path, *names: str, batch_size: int = 1, **settings: str) -> dict[str, list[Any]]:
    """Samples of our model by task."""
    given = {"pretrained": "smollm2_135m", **settings}
    _, _, samples, _ = evaluate(given, names, include_path=str(tasks), batch_size=batch_size)
    return {name: [json.loads(line) for line in samples[name]] for name in names}


def answers(samples: list[Any]) -> list[Any]:
    return [sample["resps"] for sample in samples]


def test_the_full_cache_gives_the_harness_own_results(tasks: Path) -> None:
    names = ["toy_generate", "toy_choose"]
    model, tokenizer = load_model("smollm2_135m")
    model.set_attn_implementation("sdpa")
    theirs = simple_evaluate(
        HFLM(model, tokenizer=tokenizer),
        tasks=names,
        task_manager=Tasks(str(tasks), names),
        bootstrap_iters=10,
    )
    got = ours(tasks, *names, method="fullkv")
    wanted = theirs["samples"]
    assert answers(got["toy_generate"]) == answers(wanted["toy_generate"])
    for mine, other in zip(got["toy_choose"], wanted["toy_choose"], strict=True):
        for (one,), (two,) in zip(mine["resps"], other["resps"], strict=True):
            # lm-eval keeps numbers of filtered samples as text
            assert float(one[0]) == pytest.approx(float(two[0]), abs=2e-3)
            assert str(one[1]) == str(two[1])
    for sample in got["toy_choose"]:
        for proof in sample["headkv"]:
            assert proof["kept_tokens"] == proof["prompt_tokens"] * LAYERS_AND_HEADS
            assert proof["cache_bytes"] == proof["full_cache_bytes"]


@pytest.mark.parametrize("method", ["snapkv", "headkv_r2"])
def test_every_sample_proves_what_was_evicted(tasks: Path, method: str) -> None:
    got = ours(tasks, "toy_generate", "toy_choose", method=method, kv_size="48")
    for samples in got.values():
        assert len(samples) == 3
        for sample in samples:
            assert len(sample["headkv"]) == len(sample["arguments"])
            for proof in sample["headkv"]:
                assert proof["kept_tokens"] == 48 * LAYERS_AND_HEADS
                share = proof["cache_bytes"] / proof["full_cache_bytes"]
                assert share == pytest.approx(48 / proof["prompt_tokens"])


def test_fewer_bits_change_what_is_held_and_not_the_full_cache(tasks: Path) -> None:
    got = ours(tasks, "toy_generate", "toy_choose", method="snapkv", kv_size="128", bits="4")
    for proof in (each for lines in got.values() for line in lines for each in line["headkv"]):
        assert proof["full_cache_bytes"] == proof["prompt_tokens"] * LAYERS_AND_HEADS * 2 * 64 * 4
        assert proof["cache_bytes"] < proof["kept_tokens"] * 2 * 64 * 4


def test_a_batch_answers_as_each_alone(tasks: Path) -> None:
    alone, batch = (
        ours(tasks, "toy_generate", method="snapkv", kv_size="48", batch_size=size)["toy_generate"]
        for size in (1, 3)
    )
    assert answers(alone) == answers(batch)
    assert [each["headkv"] for each in alone] == [each["headkv"] for each in batch]


def test_continuations_are_scored_behind_the_compressed_context() -> None:
    """Against the stock model fed with a compressed cache, token by token."""
    settings = {"pretrained": "smollm2_135m", "method": "adakv", "kv_size": "40"}
    loaded, cell = build(settings)
    model = HeadKVLM(loaded, cell)
    context = "The river ran past the mill. " * 12
    pairs = [(context, " It was old and slow"), (context, " North"), ("Short.", " Yes")]
    requests = [(pair, *model._encode_pair(*pair)) for pair in pairs]
    found = model._loglikelihood_tokens(requests)
    for (_, before, after), (score, greedy) in zip(requests, found, strict=True):
        cache = CompressedCache(loaded.model.config, cell.method)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([before]), past_key_values=cache).logits[0, -1]
            total, same = 0.0, True
            for token in after:
                total += float(logits.log_softmax(-1)[token])
                same &= int(logits.argmax()) == token
                fed = torch.tensor([[token]])
                logits = loaded.model(fed, past_key_values=cache).logits[0, -1]
        assert score == pytest.approx(total, abs=1e-3) and greedy == same
    assert model.proof(pairs[0])["kept_tokens"] == 40 * LAYERS_AND_HEADS


def test_the_window_ends_before_the_chat_template(tasks: Path) -> None:
    loaded, cell = build({"pretrained": "smollm2_135m", "method": "snapkv", "kv_size": "48"})
    model = HeadKVLM(loaded, cell)
    text = model.apply_chat_template([{"role": "user", "content": "What is the secret word?"}])
    ids = model.tok_encode(text)
    tail = model._template_tokens([ids])
    assert loaded.tokenizer.decode(ids[-tail:]) == "<|im_end|>\n<|im_start|>assistant\n"
    assert model._template_tokens([ids, ids[:-1]]) == 0


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        ("toy_whole", "method=fullkv", "scores whole texts"),
        ("toy_broken", "method=fullkv", "texxt"),
        ("nosuch", "method=fullkv", "no task nosuch"),
        ("toy_choose", "method=[snapkv,adakv],kv_size=48", "2 methods"),
        ("toy_choose", "method=nosuch", "nosuch"),
        ("toy_choose", "kv_sise=48", "kv_sise"),
    ],
)
def test_mistakes_are_one_line(
    tasks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: str,
    arguments: str,
    words: str,
) -> None:
    given = ["--include_path", str(tasks), "--output_path", str(tmp_path / "out")]
    asked = f"pretrained=smollm2_135m,{arguments}"
    assert front_door(main, [*given, "--tasks", names, "--model_args", asked]) == 2
    line = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error:")]
    assert len(line) == 1 and words in line[0]
    assert not (tmp_path / "out").exists()


def test_files_are_written(tasks: Path, tmp_path: Path) -> None:
    given = ["--include_path", str(tasks), "--output_path", str(tmp_path), "--limit", "1"]
    asked = "pretrained=smollm2_135m,method=snapkv,kv_size=48"
    assert front_door(main, [*given, "--tasks", "toy_choose", "--model_args", asked]) == 0
    folder = tmp_path / "smollm2_135m" / "snapkv" / "48"
    assert sorted(path.name for path in folder.iterdir()) == [
        "results.json",
        "samples_toy_choose.jsonl",
    ]
    record = json.loads((folder / "results.json").read_text())
    assert record["method"]["kv_size"] == 48 and "toy_choose" in record["results"]
    assert record["run"]["versions"]["torch"]
