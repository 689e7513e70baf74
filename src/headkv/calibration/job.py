"""From a composed config to a head-score file, or to the masking experiment."""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from headkv.calibration.cooperative import CooperativeFinder
from headkv.calibration.grids import TextTestGrid
from headkv.calibration.head_finder import Finder
from headkv.calibration.masking import run_masking
from headkv.calibration.needles import COOPERATIVE
from headkv.calibration.score_files import essays
from headkv.calibration.settings import head_settings
from headkv.calibration.test_log import HeadTestLog
from headkv.calibration.text_heads import TextFinder
from headkv.models.loading import load_model, weights_id
from headkv.storage import run_record
from headkv.storage.head_scores import (
    FORMAT,
    architecture_id,
    default_head_scores,
    save_head_scores,
)
from headkv.storage.keys import digest

logger = logging.getLogger(__name__)


def run_heads(config: dict[str, Any]) -> list[Path]:
    """Measures head scores, or runs the masking experiment, as `mode=` says.

    Args:
        config: the composed config of `conf/heads.yaml`.

    Returns:
        The files written.

    Raises:
        UserError: a setting that cannot be used, or no test that counted.
    """
    masking = head_settings(config)[0].mode == "masking"
    return run_masking(config) if masking else [find_scores(config)]


def find_scores(config: dict[str, Any]) -> Path:
    """Measures head scores and writes them with their provenance; a killed run goes on.

    Args:
        config: the composed config of `conf/heads.yaml`.

    Returns:
        The score file, by default where runs look for it.

    Raises:
        UserError: a setting that cannot be used, or no test that counted.
    """
    given, spec, tests, game = head_settings(config)
    target = given.output or default_head_scores(spec.name, tests.label)
    folder, called = essays(config)
    record = run_record.describe(config)
    model, tokenizer = load_model(spec)
    measured = (model, tokenizer, tests, folder)
    finder: Finder
    settings = dict(vars(tests))
    if isinstance(tests, TextTestGrid):
        finder = TextFinder(*measured)
    elif tests.kind == COOPERATIVE:
        finder, settings["game"] = CooperativeFinder(game, *measured), vars(game)
    else:
        finder = Finder(*measured)
    settings, weights = json.loads(json.dumps(settings)), weights_id(model)
    key = digest([FORMAT, settings, weights, tokenizer.chat_template, finder.text_id])
    asked = len(finder.places())
    with closing(HeadTestLog(target, key)) as log:
        counted = _counted(finder, log)
        header = {
            "format": FORMAT,
            "model": spec.name,
            "architecture": architecture_id(model.config),
            "weights": weights,
            "shape": list(counted[0].shape) if counted else None,
            "kind": tests.kind,
            "tests": {"asked": asked, "counted": len(counted)},
            "settings": settings,
            **finder.outcome(),
            "haystack": called,
            "haystack_hash": finder.text_id,
            "versions": record["versions"],
            "commit": record["commit"],
            "started": record["started"],
            "finished": run_record.now(),
        }
        if not any(bool((scores > 0).any()) for scores in counted):
            log.remove()  # all tests are done, and would not count next time either
        save_head_scores(target, counted, header)
        log.remove()
    logger.info("%d of %d tests counted", len(counted), asked)
    return target


def _counted(finder: Finder, log: HeadTestLog) -> list[Tensor]:
    """Runs the tests that the log lacks; the scores of all that count."""
    counted = []
    total = len(finder.places())
    bar = tqdm(finder.measure(dict(log.done)), total=total, desc=f"{finder.tests.kind} heads")
    for test in bar:
        log.append(test)
        if test.scores is not None:
            counted.append(test)
        bar.set_postfix_str(f"{len(counted)} tests count")
    return finder.tables(counted)
