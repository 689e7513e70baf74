"""From settings to what runs: model, cells, benchmark, runner and tasks, for whoever needs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.task_names import expand
from headkv.errors import UserError
from headkv.evaluation import tuning
from headkv.evaluation.cell_files import Run
from headkv.evaluation.early import build_benchmark
from headkv.evaluation.grid import Cell, build_cells
from headkv.evaluation.runner import Runner
from headkv.evaluation.settings import Settings
from headkv.evaluation.trials import Tried, trials
from headkv.evaluation.tuned import with_settings
from headkv.models.loaded import Loaded
from headkv.models.loading import load_model, weights_id
from headkv.models.spec import ModelSpec, load_spec
from headkv.records import text_config
from headkv.storage.tuned import FOLDER


@dataclass(frozen=True)
class Assembly:
    """Everything a run consists of.

    Attributes:
        spec: what the model's yaml says.
        loaded: the model.
        cells: the cells, those of a choice if one is to be made.
        benchmark: the benchmark.
        runner: asks the benchmark's examples of the model under the cells.
        tasks: the tasks that are asked for.
        choices: the file of a chosen parameter.
        tried: the trials of each method, if settings are to be chosen.
    """

    spec: ModelSpec
    loaded: Loaded
    cells: list[Cell]
    benchmark: Benchmark
    runner: Runner
    tasks: list[str]
    choices: Path
    tried: Sequence[Tried] = ()


def assemble(settings: Settings, benchmark: Benchmark | None = None) -> Assembly:
    """Builds all parts of a run; nothing is written.

    Args:
        settings: the settings of the run.
        benchmark: the benchmark; None builds the one that the settings describe.

    Raises:
        UserError: anything in the settings that cannot be used.
    """
    if benchmark is None:
        benchmark = build_benchmark(settings.benchmark or {}, settings.data_dir)
    tasks = expand(settings.task, benchmark.tasks, benchmark.sets)
    spec = load_spec(str(settings.model["name"]), settings.model)
    loaded = load(spec)
    _check_length(benchmark, loaded)
    cells = build_cells(settings, spec, loaded.model.config)
    folder = settings.output_dir / tuning.parameter(settings).rpartition(".")[2]
    choices = folder / benchmark.name / loaded.name / tuning.FILE
    validation, tried = None, list[Tried]()
    wanted = tuning.wanted(settings)
    if wanted is not None and wanted != "chosen" and settings.shard is not None:
        raise UserError(
            "choosing settings needs all their answers",
            allowed="one process",
            do="leave shard= out",
        )
    if isinstance(settings.tune, Mapping):
        tried = trials(cells, settings.tune, settings.trials, settings.trials_seed)
        cells, validation = [cell for each in tried for cell in each.cells], True
        settings = replace(settings, output_dir=settings.output_dir / FOLDER, fidelity=True)
    elif wanted == "choose":
        settings = replace(settings, output_dir=folder, fidelity=False)
        cells, validation = tuning.candidates(cells, tuning.parameter(settings)), True
    elif wanted == "chosen":
        cells = tuning.with_choices(cells, tuning.parameter(settings), choices, [loaded.weights])
        validation = False
    elif settings.variants:
        of = benchmark.name, loaded.name, loaded.weights
        cells, validation = with_settings(cells, settings, *of), False
    runner = Runner(Run(settings, benchmark, loaded, cells, validation))
    return Assembly(spec, loaded, cells, benchmark, runner, tasks, choices, tried)


def _check_length(benchmark: Benchmark, loaded: Loaded) -> None:
    """Raises `UserError` where texts are built to a length that the model was not made for."""
    most = int(text_config(loaded.model.config).max_position_embeddings)
    if benchmark.longest is not None and benchmark.longest > most:
        raise UserError(
            f"{benchmark.name} at a length of {benchmark.longest} tokens is too long for "
            f"{loaded.name}",
            allowed=f"lengths up to {most}, the model's context",
            do="lower lengths=, or choose another model",
        )


def load(spec: ModelSpec) -> Loaded:
    """Loads a model with its tokenizer, ready to answer.

    Args:
        spec: what the model's yaml says.

    Raises:
        UserError: the model cannot be had.
    """
    model, tokenizer = load_model(spec)
    limit = spec.prompt_limit(model.config)
    return Loaded(spec.name, model, tokenizer, weights_id(model), limit, spec.chat_template)
