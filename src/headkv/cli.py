"""What every command shares: one front door for mistakes, and Hydra around what is configured.

Exit code 2 is the user's mistake: one line on stderr, no traceback. Exit code 1 is a fault of ours:
a traceback, and where to report it.
"""

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headkv.config import CONF, config_loader, not_composed, plain, plugins
from headkv.errors import UserError, choose

if TYPE_CHECKING:
    from omegaconf import DictConfig

Main = Callable[[Sequence[str] | None], int | None]
Task = Callable[[dict[str, Any]], object]
Usage = Callable[[list[str]], str]


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are the user's: one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` in place of argparse's several lines."""
        help_ = f"{self.prog} --help"
        raise UserError(message, allowed=f"what `{help_}` lists", do=f"type `{help_}`")


def front_door(main: Main, argv: Sequence[str] | None = None) -> int:
    """Calls a command; the one place where a mistake becomes a line and an exit code.

    What the package logs is shown on stderr meanwhile.

    Args:
        main: takes the arguments, returns an exit code or None for 0; raises `UserError` freely.
        argv: the arguments; None: the process's own.

    Returns:
        The exit code: what `main` returns, 2 after a user's mistake, 1 after a fault of ours, with
        its traceback, 130 after Ctrl-C (143 after SIGTERM where a run can be gone on with).
    """
    log = logging.getLogger("headkv")
    shown = None if log.handlers else logging.StreamHandler()  # another front door is around this
    if shown is not None:
        log.addHandler(shown)
        log.setLevel(logging.INFO)
        log.propagate = False  # or Hydra's root logger shows every line once more
    try:
        return main(argv) or 0
    except KeyboardInterrupt as stopped:
        line = "interrupted: finished rows are kept, run the same command to go on"
        print(str(stopped) or line, file=sys.stderr, flush=True)
        return int(getattr(stopped, "code", 130))
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as problem:
        mistake = as_mistake(problem)
        if mistake is None:
            traceback.print_exc()
            print(FAULT, file=sys.stderr, flush=True)
            return 1
        print(f"error: {mistake}", file=sys.stderr, flush=True)
        return 2
    finally:
        if shown is not None:
            log.removeHandler(shown)
            log.propagate = True


FAULT = (
    "This is a fault of headkv, not of what you typed. Please report it, with the lines above and "
    "the command, as CONTRIBUTING.md says."
)


def as_mistake(problem: Exception) -> UserError | None:
    """What escaped, as the user's mistake if it is one: settings, files and memory are theirs.

    Args:
        problem: what was raised.

    Returns:
        None for a fault of ours.
    """
    library = type(problem).__module__.partition(".")[0]
    if isinstance(problem, UserError):
        return problem
    if library in ("hydra", "omegaconf", "antlr4"):
        return not_composed("the settings", problem)
    if isinstance(problem, OSError) and problem.filename is not None and problem.errno:
        return UserError(
            f"cannot use {problem.filename}: {problem.strerror}",
            allowed="files and folders that are there, with the rights and the space that it takes",
            do="check this path",
        )
    if isinstance(problem, MemoryError):
        return UserError(
            "out of memory", allowed="what fits into memory", do="ask for less at a time"
        )
    frames = traceback.extract_tb(problem.__traceback__)
    if isinstance(problem, RecursionError) and re.search(_PARSERS, frames[-1].filename):
        return UserError(
            "something given is nested too deeply", allowed="a few levels", do="flatten it"
        )
    return None


_PARSERS = r"[/\\](json|yaml|omegaconf|hydra|antlr4|ast\.py|copy\.py)"
"""Parts of the paths of what reads settings and data."""


def main(script: str, task: Task, usage: Usage | None = None) -> None:
    """Composes `conf/<script>.yaml` with the process's command line and calls `task` with it.

    Args:
        script: name of the yaml.
        task: takes the config; if what it returns has some `failed`, the exit code is 1.
        usage: gives what `--help` prints, from the settings on the command line; None: Hydra's.

    Raises:
        SystemExit: with the exit code, unless it is 0.
    """
    if code := front_door(lambda _: _compose_and_call(script, task, usage)):
        sys.exit(code)


def _compose_and_call(script: str, task: Task, usage: Usage | None) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from headkv.config.search_path import PluginFolders

    given = _arguments(script)
    if given.help and usage is not None:
        print(usage(given.overrides))
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors its own way, with exit code 1
    Plugins.instance().register(PluginFolders)
    started = False

    def call(config: "DictConfig") -> None:
        nonlocal started
        started = True
        for source in HydraConfig.get().runtime.config_sources:
            if "command-line" in source.provider and source.schema == "file":
                plugins.trust(Path(source.path))

        def job(_: object) -> int:
            given = HydraConfig.get()
            typed: Any = OmegaConf.to_container(given.overrides.task, resolve=False)
            outcome = task(plain(config, str(given.job.config_name), typed))
            return 1 if getattr(outcome, "failed", 0) else 0

        if code := front_door(job):  # here: it may be another process, or Hydra adds its own line
            sys.exit(code)

    _check_hydra(script, given)
    wrapped = hydra.main(version_base="1.3", config_path=str(CONF), config_name=script)(call)
    try:
        wrapped()
    except MissingConfigException as problem:
        group, _, name = (problem.missing_cfg_file or "").rpartition("/")
        choose(group or "config", name, problem.options or [])
        raise not_composed(script, problem) from problem
    except (HydraException, OmegaConfBaseException) as problem:
        raise not_composed(script, problem) from problem
    except (ValueError, RecursionError, AssertionError, TypeError, AttributeError) as problem:
        if started:
            raise
        raise not_composed(script, problem) from problem


def _arguments(script: str) -> argparse.Namespace:
    """What Hydra will see, its own flags checked.

    Raises:
        UserError: a flag that there is not, or one that would load a pickle.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(
            message,
            allowed=f"KEY=VALUE and the flags that `headkv {script} --help` lists",
            do="leave it out",
        )

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]  # of several lines
    given = parser.parse_args()
    if given.experimental_rerun is not None:
        refuse("--experimental-rerun would run what a pickle says")
    return given


_HYDRAS_OWN = ("hydra._internal.core_plugins.", "hydra_plugins.")
"""Where Hydra's launchers and sweepers live, the only classes that it is let build by itself."""


def _check_hydra(script: str, given: argparse.Namespace) -> None:
    """Refuses what Hydra itself would run because a yaml says so, neither ours nor a plug-in's.

    It builds callbacks and log handlers of any callable, before it calls us; so where there are
    other yamls, what they come to is looked at first.

    Args:
        script: the yaml of `conf/`.
        given: what Hydra will see.

    Raises:
        UserError: a callable is named that is no launcher or sweeper, or `--package` is not there.
    """
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    elsewhere = given.config_dir or any("hydra.searchpath" in each for each in given.overrides)
    if not elsewhere and given.package is None:
        return
    own = config_loader(*([Path(given.config_dir)] if given.config_dir else ()))
    mode = RunMode.MULTIRUN if given.multirun else RunMode.RUN
    try:
        config = own.load_configuration(script, given.overrides, mode)
    except Exception:  # Hydra will stumble over it too, and say so
        return
    if given.package not in (None, "_global_") and OmegaConf.select(config, given.package) is None:
        raise UserError(
            f"--package {given.package}", allowed="a key of the settings", do="leave it out"
        )
    for key, value in _leaves(OmegaConf.to_container(config.hydra, resolve=False)):
        text = str(value)
        if key not in ("_target_", "()", "class") and not text.startswith("ext://"):
            continue
        logs = text.startswith("ext://sys.std") or (key == "class" and text.startswith("logging."))
        if not logs and not text.startswith(_HYDRAS_OWN):
            raise UserError(
                f"Hydra would run {text}, which a yaml names",
                allowed="launchers and sweepers of Hydra and its plug-ins",
                do="remove it from the yamls of --config-dir or hydra.searchpath",
            )


def _leaves(content: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested containers with the key that it stands at."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _leaves(value, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from _leaves(value, key)
    else:
        yield key, content
