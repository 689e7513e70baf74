"""From a composed config to a finished run, the same for every benchmark."""

import sys
from typing import Any

from headkv.evaluation import tuning
from headkv.evaluation.assembly import MakeBenchmark, _choices, set_up
from headkv.evaluation.estimate import LONG, estimate
from headkv.evaluation.runner import Outcome
from headkv.evaluation.settings import Settings
from headkv.storage import run_record


def run_benchmark(config: dict[str, Any], make: MakeBenchmark) -> Outcome | None:
    """Runs what the config asks for and writes rows and `run.json`.

    Args:
        config: the composed config.
        make: builds the benchmark from its config group and `data_dir`.

    Returns:
        What was done; None with `dry_run=true`, which only says what the run would take.

    Raises:
        UserError: anything in the config that cannot be used; nothing is written then.
    """
    settings = Settings.parse(config)
    runner, chosen = set_up(settings, make)
    weights, choices = runner.loaded.weights, _choices(settings, runner)
    record: dict[str, Any] = run_record.describe(dict(settings.raw)) | {
        "weights": weights,
        "cells": [{"name": cell.name, **cell.identity} for cell in runner.cells],
    }
    record["files"] = runner.files(chosen)
    record["data"] = runner.data(chosen)
    work = runner.work(chosen)
    if settings.dry_run or len(work) >= LONG:
        print(estimate(work, runner.asker, runner.answering), file=sys.stderr)
    if settings.dry_run:
        return None
    if work:  # before the first row: a run that is killed is on record too
        run_record.save(runner.folder, record)
    try:
        outcome = runner.run(chosen)
    except SystemExit:
        run_record.save(runner.folder, record | {"stopped": run_record.now()})
        raise
    if settings.beta == "choose" and not outcome.failed:
        scores = [tuning.read_scores(runner.rows(i, chosen)) for i in range(len(runner.cells))]
        about = {"seed": settings.seed, "chosen_at": run_record.now()}
        lines = tuning.save_choices(
            choices, runner.cells, scores, [weights, settings.compress_on], about
        )
        print(*lines, f"chosen betas: {choices}", sep="\n", file=sys.stderr)
    record["finished"] = run_record.now()
    record["outcome"] = vars(outcome)
    run_record.save(runner.folder, record)
    note = f", {outcome.foreign} rows of other settings left alone" if outcome.foreign else ""
    print(
        f"{outcome.answered} rows written, {outcome.present} were there{note}: {runner.folder}",
        file=sys.stderr,
    )
    if outcome.failed:
        print(
            f"{outcome.failed} answers failed for lack of memory, their rows say where: "
            "run the same command again to try only these",
            file=sys.stderr,
        )
        sys.exit(1)
    return outcome
