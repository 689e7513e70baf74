"""TODO."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.task_names import expand
from headkv.errors import UserError
from headkv.evaluation import tuning
from headkv.evaluation.grid import build_cells
from headkv.evaluation.runner import Loaded, Runner
from headkv.evaluation.settings import Settings
from headkv.models.loading import load_model, weights_id
from headkv.models.spec import load_spec

MakeBenchmark = Callable[[Mapping[str, Any], Path | None], Benchmark]


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
        runner = Runner(aside, benchmark, loaded, tuning.candidates(cells), validation=True)
    elif settings.beta == "chosen":
        apart = [loaded.weights, settings.compress_on]
        cells = tuning.with_choices(cells, _choices(settings, runner), apart)
        runner = Runner(settings, benchmark, loaded, cells, validation=False)
    return runner, chosen


def _choices(settings: Settings, runner: Runner) -> Path:
    """The file of the chosen betas."""
    names = runner.benchmark.name, runner.loaded.name
    return settings.output_dir.joinpath("beta", *names, tuning.FILE)


def tasks(given: str | list[str] | None, benchmark: Benchmark) -> list[str]:
    """The `task=` key: one, several, a named set, or None for all.

    Raises:
        UserError: none, or one that the benchmark does not have.
    """
    return expand(given, benchmark.tasks, benchmark.sets)
