"""What of a run can be refused before torch is imported, which takes seconds: nearly everything.

Each check here is made by the same code that builds the run later; what needs a loaded model, such
as the shape of head scores, is left to it.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.benchmarks.task_names import expand
from headkv.config import instantiate, load_group, names
from headkv.config.declared import Declared
from headkv.errors import UserError
from headkv.evaluation.model_files import ModelFiles
from headkv.evaluation.settings import Settings
from headkv.evaluation.space import none_takes
from headkv.methods.build import Planned, declared, plan
from headkv.methods.holding import Reads, interval
from headkv.methods.sizes import check_room, check_size
from headkv.models.spec import ModelSpec, load_spec


def check_run(config: Mapping[str, Any]) -> tuple[Settings, Benchmark]:
    """Checks the config of a benchmark run.

    Args:
        config: the composed config.

    Returns:
        The settings and the benchmark, with its data found.

    Raises:
        UserError: anything that cannot be used.
    """
    settings = Settings.parse(config)
    spec = check_model(config)
    check_methods(settings, spec)
    benchmark = build_benchmark(settings.benchmark or {}, settings.data_dir)
    expand(settings.task, benchmark.tasks, benchmark.sets)
    return settings, benchmark


def check_model(config: Mapping[str, Any]) -> ModelSpec:
    """Checks what a config says of the model.

    Args:
        config: a composed config with a key `model`.

    Raises:
        UserError: it is no model's, or a value is out of bounds.
    """
    model = config.get("model")
    if not isinstance(model, Mapping) or "name" not in model:
        raise UserError(
            f"model={model!r}", allowed="a model of conf/model, with its name", do="set model="
        )
    return load_spec(str(model["name"]), model)


def check_methods(settings: Settings, spec: ModelSpec | None) -> None:
    """Checks the methods of a run: names, types and bounds of parameters, sizes, score files.

    Args:
        settings: the settings of the run.
        spec: names the model's files; None: the run brings its own.

    Raises:
        UserError: a method that cannot be built.
    """
    files = ModelFiles(settings, spec, None) if spec is not None else None
    takes: set[str] = set()  # numeric parameters, such as `allocator.beta`
    every: set[str] = set()  # all parameters
    for name, content in settings.methods.items():
        given = (settings.scorer, settings.allocator, settings.entries)
        for scorer, allocator, entries in product(*(each or [None] for each in given)):
            parts = plan(
                name,
                content,
                scorer=scorer,
                allocator=allocator,
                entries=entries,
                resource=None if files is None else files.find,
            )
            for path, part in _chain(parts):
                takes |= {f"{path}.{key}" for key in part.numbers}
                every |= {f"{path}.{key}" for key in part.parameters}
            if parts["allocator"][0].constants.get("keeps_all"):
                continue
            reads = _reads(parts)
            for kv_size in settings.kv_sizes:
                check_size(name, kv_size)
                check_room(kv_size, reads.window_size, 0)
            interval(name, settings.decode_kv_size, settings.compress_every, reads)

    beta = settings.beta is not None and "allocator.beta" not in takes
    if isinstance(settings.tune, Mapping):
        _check_space(settings.tune, every, settings.methods)
    elif beta or settings.tune not in {None, *takes}:
        raise without_parameter(settings, settings.methods)


def _chain(parts: Mapping[str, Planned]) -> Iterator[tuple[str, Declared]]:
    """Every part by its path: `scorer`, `scorer.base` of one that works over another."""
    for path, (part, content) in parts.items():
        yield path, part
        if isinstance(base := content.get("base"), tuple):
            yield from _chain({f"{path}.base": base})


def _check_space(space: Iterable[str], takes: set[str], methods: Iterable[str]) -> None:
    """Raises `UserError` if no scorer or allocator has a parameter, or no method of the run any."""
    known = {
        f"{group}.{key}"
        for group in ("scorer", "allocator")
        for name in names(group)
        for key in declared(group, load_group(group, name)).parameters
    }
    for path in space:
        if path.replace(".base.", ".") not in known:
            group = path.partition(".")[0]
            raise UserError(
                f"tune: no {group} has a parameter {path.rpartition('.')[2]!r}",
                allowed=f"parameters of a {group}, as conf/{group} has them",
                do="change tune=",
            )
    if not takes & set(space):
        raise none_takes(space, methods)


def _reads(parts: Mapping[str, Planned]) -> Reads:
    """What planned parts say of themselves; where their source cannot be read, the least."""
    scorer, given = parts["scorer"]
    window = given.get("window_size", scorer.default("window_size"))
    chain = [part.constants for _, part in _chain({"scorer": parts["scorer"]})]
    allocator = parts["allocator"][0].constants
    entries = parts["entries"][0].constants if "entries" in parts else {}
    return Reads(
        str(scorer.constants.get("name")),
        window if isinstance(window, int) else 0,
        frozenset().union(*(each.get("needs") or () for each in chain)),
        any(each.get("across_heads") for each in chain),
        str(allocator.get("name")),
        bool(allocator.get("even", True)),
        str(entries.get("name")),
        bool(entries.get("gathers", True)),
    )


def without_parameter(settings: Settings, methods: Iterable[str]) -> UserError:
    """The refusal of `beta=` or `tune=` where no method has the parameter.

    Args:
        settings: the settings of the run.
        methods: names of its methods.
    """
    path = settings.tune or "allocator.beta"
    given = f"tune={path}" if settings.tune else f"beta={settings.beta}"
    is_beta = path == "allocator.beta"
    return UserError(
        f"{given} with method {', '.join(sorted(set(methods)))}",
        allowed=f"methods that have the numeric parameter {path}"
        + (", such as headkv_r, headkv_r2" if is_beta else ""),
        do=f"leave {given.partition('=')[0]}= out, or "
        + ("set method=[headkv_r,headkv_r2]" if is_beta else "change method="),
    )


def build_benchmark(content: Mapping[str, Any], data_dir: Path | None) -> Benchmark:
    """Builds a benchmark from the content of its yaml.

    Args:
        content: `_target_` and its parameters.
        data_dir: a folder where the benchmark looks first for its data.

    Raises:
        UserError: a parameter that it does not take or cannot use, or no data.
    """
    name = str(content.get("_target_", "")).rpartition(".")[2]
    built: Benchmark = instantiate(f"benchmark {name}", content, Benchmark, data_dir=data_dir)
    return built
