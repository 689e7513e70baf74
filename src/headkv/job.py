"""From a composed config to a finished run, the same for every benchmark."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headkv import beta, provenance
from headkv.benchmarks import Benchmark
from headkv.benchmarks.selection import expand
from headkv.cells import build_cells
from headkv.errors import UserError
from headkv.estimate import LONG, estimate
from headkv.model_spec import load_spec
from headkv.models import load_model, weights_id
from headkv.runner import Loaded, Outcome, Runner
from headkv.settings import Settings

MakeBenchmark = Callable[[Mapping[str, Any], Path | None], Benchmark]


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
    record: dict[str, Any] = provenance.describe(dict(settings.raw)) | {
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
        provenance.save(runner.folder, record)
    try:
        outcome = runner.run(chosen)
    except SystemExit:
        provenance.save(runner.folder, record | {"stopped": provenance.now()})
        raise
    if settings.beta == "choose" and not outcome.failed:
        scores = [beta.read_scores(runner.rows(i, chosen)) for i in range(len(runner.cells))]
        about = {"seed": settings.seed, "chosen_at": provenance.now()}
        lines = beta.save_choices(
            choices, runner.cells, scores, [weights, settings.compress_on], about
        )
        print(*lines, f"chosen betas: {choices}", sep="\n", file=sys.stderr)
    record["finished"] = provenance.now()
    record["outcome"] = vars(outcome)
    provenance.save(runner.folder, record)
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


def set_up(settings: Settings, make: MakeBenchmark) -> tuple[Runner, list[str]]:
    """The runner of a run and the tasks it is asked for; nothing is written.

    Args:
        settings: of the run.
        make: as `run_benchmark` takes it.

    Raises:
        UserError: anything in the settings that cannot be used.
    """
    config = settings.raw
    benchmark = make(config["benchmark"], settings.data_dir)
    chosen = tasks(config["task"], benchmark)
    spec = load_spec(str(config["model"]["name"]), config["model"])
    model, tokenizer = load_model(spec)
    cells = build_cells(settings, spec, model.config)
    loaded = Loaded(
        spec.name,
        model,
        tokenizer,
        weights_id(model),
        spec.prompt_limit(model.config),
        spec.chat_template,
    )
    runner = Runner(settings, benchmark, loaded, cells)
    if settings.beta == "choose":
        if settings.shard is not None:
            raise UserError(
                "beta=choose needs all its answers", allowed="one process", do="leave shard= out"
            )
        aside = replace(settings, output_dir=settings.output_dir / "beta", fidelity=False)
        runner = Runner(aside, benchmark, loaded, beta.candidates(cells), validation=True)
    elif settings.beta == "chosen":
        apart = [loaded.weights, settings.compress_on]
        cells = beta.with_choices(cells, _choices(settings, runner), apart)
        runner = Runner(settings, benchmark, loaded, cells, validation=False)
    return runner, chosen


def _choices(settings: Settings, runner: Runner) -> Path:
    """The file of the chosen betas."""
    names = runner.benchmark.name, runner.loaded.name
    return settings.output_dir.joinpath("beta", *names, beta.FILE)


def tasks(given: str | list[str] | None, benchmark: Benchmark) -> list[str]:
    """The `task=` key: one, several, a named set, or None for all.

    Raises:
        UserError: none, or one that the benchmark does not have.
    """
    return expand(given, benchmark.tasks, benchmark.sets)
