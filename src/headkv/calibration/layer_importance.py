"""Measuring layer importance (CompressKV, arXiv 2508.02401) and writing its file.

The published values come from the test sets that were then evaluated on them; these come from
needles and essays that no evaluation uses. What is measured stands in
`headkv.calibration.layer_errors`.

headkv importance model=smollm2_135m
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from headkv.benchmarks.haystack import Haystack
from headkv.calibration.grids import ImportanceTests
from headkv.calibration.layer_errors import layer_errors
from headkv.calibration.needles import OPENING, hidden_test
from headkv.calibration.score_files import essays
from headkv.calibration.settings import importance_settings
from headkv.cli import main
from headkv.errors import UserError
from headkv.generation.decoding import Stopping
from headkv.methods import Method, build_method
from headkv.models.loading import load_model, weights_id
from headkv.models.prompts import encode, end_token_ids
from headkv.models.spec import check_context
from headkv.storage import run_record
from headkv.storage.head_scores import architecture_id, find_head_scores, load_head_scores
from headkv.storage.keys import digest
from headkv.storage.layer_importance import default_layer_importance, save_layer_importance
from headkv.storage.measured import place_of

logger = logging.getLogger(__name__)


def measure(
    model: Any, tokenizer: Any, tests: ImportanceTests, probe: Method, folder: Path
) -> Iterator[tuple[str, Tensor, int]]:
    """Yields data set, errors float64 `[layer]` and decode steps of every sample.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        tokenizer: the model's tokenizer.
        tests: what to measure on.
        probe: the method that compresses.
        folder: folder of the essays; the half that no evaluation uses is taken.

    Raises:
        UserError: no essays, too short ones, or a model whose output projections are not found.
    """
    haystack = Haystack.read(folder, "heads", tokenizer)
    stopping = Stopping(tests.max_new_tokens, end_token_ids(tokenizer, model.generation_config))
    for name, place in tests.grid():
        _, text = hidden_test(name, tests.seed, place, haystack, tokenizer)
        prompt = encode(
            tokenizer,
            text if tests.chat_template else text + OPENING,
            chat_template=tests.chat_template,
            max_prompt_tokens=None,
        )
        longest = len(prompt.input_ids) + tests.max_new_tokens
        check_context(model.config, longest, "a sample", "lower tests.lengths=")
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
    given, spec, tests = importance_settings(config)
    target = given.output or default_layer_importance(spec.name)
    named, data_dir = given.head_scores, given.data_dir
    path = (
        place_of("head_scores", named, data_dir)
        if named
        else find_head_scores(spec.name, "semantic", data_dir, spec.head_scores.get("semantic"))
    )
    if path is None:
        raise UserError(
            f"model {spec.name} has no semantic head scores",
            allowed="a score file of this model",
            do=f"headkv heads model={spec.name} kind=semantic, or set head_scores=FILE",
        )
    folder, called = essays(config)
    model, tokenizer = load_model(spec)
    scores = load_head_scores(path, model.config, kind="semantic")
    probe = build_method("compresskv", kv_size=tests.probe_kv_size, head_scores=scores)
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
        "head_scores": {"file": path.name, "digest": digest(scores.tolist())},
        "settings": json.loads(json.dumps(vars(tests))),
        "data_sets": {
            name: {"steps": steps[name], "importance": [round(v, 6) for v in share.tolist()]}
            for name, share in shares.items()
        },
        "haystack": called,
        **{key: record[key] for key in ("versions", "commit", "started")},
        "finished": run_record.now(),
    }
    save_layer_importance(target, importance, header)
    logger.info("%d decode steps in %d answers", sum(steps.values()), len(tests.grid()))
    return target


def average(sums: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Averages over data sets, each with sum 1; data sets without a decode step are left out.

    Args:
        sums: summed errors of every data set, float64 `[layer]` each.

    Returns:
        The importance, float64 `[layer]`, and every data set's share in it, `[layer]` each.

    Raises:
        UserError: no data set has a decode step.
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
