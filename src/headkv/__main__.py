"""The `headkv` command: every script and tool by name, in a checkout or installed anywhere.

`run` is the body of the `run_*.py` scripts.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from headkv.cli import Task, front_door
from headkv.cli import main as hydra_main
from headkv.config import CONF, names, plugins
from headkv.errors import choose

# Each task checks its settings before it imports torch, which takes seconds.
# name -> module whose `main` takes the arguments, words put before them, what it does
TOOLS = {
    "report": ("headkv.report.__main__", (), "tables, figures, html or sanity of a results folder"),
    "tables": ("headkv.report.__main__", ("tables",), "tables from results"),
    "figures": ("headkv.report.__main__", ("figures",), "figures from results"),
    "html": ("headkv.report.__main__", ("html",), "one page of results, figures and examples"),
    "leaderboard": (
        "headkv.report.leaderboard.__main__",
        (),
        "methods by benchmarks by share of the cache: page, Markdown, CSV, JSON",
    ),
    "methods": ("headkv.report.methods", (), "methods by KV size, question seen or not: one page"),
    "sanity": (
        "headkv.report.__main__",
        ("sanity",),
        "proof that every long prompt was compressed",
    ),
    "results": ("headkv.results.__main__", (), "ls, verify, merge, gc or diff of results folders"),
    "inspect": ("headkv.evaluation.kept_tokens", (), "which tokens each head kept in a run"),
    "scores": ("headkv.calibration.__main__", (), "report, export or import head-score files"),
    "balance": ("headkv.balance.__main__", (), "heads shared out over ranks, modelled"),
    "data": ("headkv.benchmarks.__main__", (), "fetch and verify what the benchmarks read"),
    "lm-eval": ("headkv.lm_eval.__main__", (), "lm-evaluation-harness on a compressed cache"),
    "models": ("headkv.models.__main__", (), "fetch the embedded model and the haystack"),
}
HYDRA_WORDS = {
    "heads": "measure a model's head scores",
    "efficiency": "seconds and bytes of every method",
    "importance": "measure CompressKV's layer importance",
    "stream": "perplexity of long text under a bounded cache",
}


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """One of the scripts that Hydra composes: a benchmark by its name, or one of `TASKS`.

    Args:
        command: a name of `conf/benchmark`, or `heads`, `efficiency`, `importance`.
        arguments: Hydra's command line; None: the process's own.

    Raises:
        SystemExit: with the exit code, unless it is 0.
    """
    if arguments is not None:
        sys.argv = [f"headkv {command}", *arguments]

    def start(_: object) -> None:
        script = _script(command)

        def usage(overrides: list[str]) -> str:
            from headkv.usage import usage

            return usage(command, script, overrides)

        hydra_main(script, TASKS.get(command, _benchmark), usage)

    if code := front_door(start):
        sys.exit(code)


def _script(command: str) -> str:
    """The yaml of `conf/` that a command composes; benchmarks of plug-ins may share one."""
    if any((each / f"{command}.yaml").is_file() for each in (CONF, *plugins.folders())):
        return command
    sys.argv.insert(1, f"benchmark={command}")
    return "benchmark"


def hydra_commands() -> list[str]:
    """Names that `run` takes."""
    return [*names("benchmark"), *TASKS]


def _benchmark(config: dict[str, Any]) -> object:
    from headkv.evaluation.early import check_run

    checked = check_run(config)
    from headkv.evaluation.job import run_benchmark  # torch: not before the settings are checked

    return run_benchmark(config, *checked)


def _heads(config: dict[str, Any]) -> None:
    from headkv.calibration.settings import head_settings

    head_settings(config)
    from headkv.calibration.job import run_heads

    print("\n".join(map(str, run_heads(config))))


def _efficiency(config: dict[str, Any]) -> object:
    from headkv.efficiency.settings import check_efficiency

    check_efficiency(config)
    from headkv.efficiency.job import run_efficiency

    return run_efficiency(config)


def _importance(config: dict[str, Any]) -> None:
    from headkv.calibration.settings import importance_settings

    importance_settings(config)
    from headkv.calibration.layer_importance import run_importance

    print(run_importance(config))


def _stream(config: dict[str, Any]) -> None:
    from headkv.stream.settings import check_stream

    checked = check_stream(config)
    from headkv.stream.job import run_stream

    print(run_stream(*checked))


TASKS: dict[str, Task] = {
    "stream": _stream,
    "heads": _heads,
    "efficiency": _efficiency,
    "importance": _importance,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hands the rest of the command line to the command that it names; returns its exit code.

    Args:
        arguments: the command line; None: the process's own.
    """
    return front_door(_dispatch, sys.argv[1:] if arguments is None else arguments)


def _dispatch(arguments: Sequence[str] | None) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    scripts = hydra_commands()
    choose("command", name, [*scripts, *TOOLS], do="type `headkv --help`")
    if name in scripts:
        run(name, rest)
        return 0
    module, words, _ = TOOLS[name]
    code: int = import_module(module).main([*words, *rest])
    return code


def _help() -> str:
    about = {name: HYDRA_WORDS.get(name, f"the benchmark {name}") for name in hydra_commands()}
    about |= {name: what for name, (_, _, what) in TOOLS.items()}
    lines = [f"  {name:<12} {what}" for name, what in about.items()]
    return "\n".join(
        [
            "usage: headkv COMMAND ...",
            "",
            *lines,
            "",
            "The first ones take settings, such as `headkv needle method=snapkv kv_size=[64,128]`.",
            "`headkv COMMAND --help` says more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
