"""From a composed config to a finished run, the same for every benchmark."""

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.evaluation import tuning
from headkv.evaluation.assembly import Assembly, assemble
from headkv.evaluation.estimate import LONG, estimate
from headkv.evaluation.plan import Work
from headkv.evaluation.runner import Outcome
from headkv.evaluation.settings import Settings
from headkv.evaluation.signals import Stopped
from headkv.evaluation.tuned import measured, save_tuned
from headkv.storage import run_record
from headkv.storage.tuned import tuned_file

_log = logging.getLogger(__name__)


def run_benchmark(
    config: Mapping[str, Any], settings: Settings | None = None, benchmark: Benchmark | None = None
) -> Outcome | None:
    """Runs what the config asks for and writes rows and `run.json`.

    A long run starts with a short probe, so that its log says how long it will take. What happens
    is logged; the process is never ended here.

    Args:
        config: the composed config.
        settings: of the config, and
        benchmark: the benchmark, where `headkv.evaluation.early` has checked and built them.

    Returns:
        What was done, failed answers included; None with `dry_run=true`, which only says what the
        run would take.

    Raises:
        UserError: anything in the config that cannot be used; nothing is written then.
        Stopped: SIGTERM or Ctrl-C ended the run.
    """
    settings = settings or Settings.parse(config)
    assembly = assemble(settings, benchmark)
    runner, tasks = assembly.runner, assembly.tasks
    work = runner.work(tasks)
    if settings.dry_run or len(work) >= LONG:
        told = estimate(work.missing, runner.stream, runner.encoder, runner.scheduler())
        _log.info("%s", told)
    if settings.dry_run:
        return None
    record = _record(settings, assembly, work)
    runner.check(work)
    if len(work):  # before the first row: a run that is killed is on record too
        run_record.save(runner.folder, record)
    try:
        outcome = runner.run(tasks, work)
    except Stopped:
        run_record.save(runner.folder, record | {"stopped": run_record.now()})
        raise
    if tuning.wanted(settings) == "choose" and not outcome.failed:
        _save_choices(settings, assembly, work)
    record["finished"] = run_record.now()
    record["outcome"] = vars(outcome)
    run_record.save(runner.folder, record)
    note = f", {outcome.foreign} rows of other settings left alone" if outcome.foreign else ""
    _log.info(
        "%d rows written, %d were there%s: %s",
        outcome.answered,
        outcome.present,
        note,
        runner.folder,
    )
    if outcome.failed:
        _log.error(
            "%d answers failed, their rows say why (memory, or logits that are not finite): "
            "run the same command again to try only these",
            outcome.failed,
        )
    return outcome


def _record(settings: Settings, assembly: Assembly, work: Work) -> dict[str, Any]:
    """The content of `run.json` before the run."""
    runner = assembly.runner
    together = runner.of_all_shards(assembly.tasks)
    return run_record.describe(dict(settings.raw)) | {
        "weights": assembly.loaded.weights,
        "cells": [{"name": cell.name, **cell.identity} for cell in assembly.cells],
        "files": runner.files.keys(Counter(task for task, _ in together)),
        "data": runner.files.data(work.asked),
    }


def _save_choices(settings: Settings, assembly: Assembly, work: Work) -> None:
    """Writes down the best value of the tuned parameter for every method and size."""
    runner, cells = assembly.runner, assembly.cells
    files = [runner.files.rows(index, work.asked) for index in range(len(cells))]
    about = {"seed": settings.seed, "chosen_at": run_record.now()}
    of = assembly.benchmark.name, assembly.loaded.name, assembly.loaded.weights
    if assembly.tried:
        rows = map(measured, files)
        found = [list(islice(rows, len(each.cells))) for each in assembly.tried]
        told = save_tuned(settings, *of, assembly.tried, found, about)
        place = tuned_file(settings.output_dir, *of[:2])
    else:
        scores, place = [tuning.read_scores(each) for each in files], assembly.choices
        told = tuning.save_choices(place, cells, tuning.parameter(settings), scores, [of[2]], about)
    for line in told:
        _log.info("%s", line)
    _log.info("chosen: %s", place)
