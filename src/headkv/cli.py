"""What every command shares: one front door for mistakes, and Hydra around what is configured.

Exit code 2 is the user's mistake: one line on stderr, no traceback.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headkv import plugins
from headkv.config import CONF, not_composed, plain
from headkv.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Main = Callable[[Sequence[str] | None], int | None]
Task = Callable[[dict[str, Any]], object]


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are the user's: one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` in place of argparse's several lines."""
        help_ = f"{self.prog} --help"
        raise UserError(message, allowed=f"what `{help_}` lists", do=f"type `{help_}`")


def front_door(main: Main, argv: Sequence[str] | None = None) -> int:
    """Calls a command; the one place where a user's mistake becomes a line and an exit code.

    What the package logs is shown on stderr meanwhile.

    Args:
        main: takes the arguments, returns an exit code or None for 0; raises `UserError` freely.
        argv: the arguments; None: the process's own.

    Returns:
        The exit code: what `main` returns, 2 after a user's mistake, 130 after Ctrl-C (143 after
        SIGTERM where a run can be gone on with).
    """
    log = logging.getLogger("headkv")
    shown = None if log.handlers else logging.StreamHandler()  # another front door is around this
    if shown is not None:
        log.addHandler(shown)
        log.setLevel(logging.INFO)
        log.propagate = False
        log.propagate = False  # or Hydra's root logger shows every line once more
    try:
        return main(argv) or 0
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        line = "interrupted: finished rows are kept, run the same command to go on"
        print(str(stopped) or line, file=sys.stderr, flush=True)
        return int(getattr(stopped, "code", 130))
    finally:
        if shown is not None:
            log.removeHandler(shown)
            log.propagate = True
            log.propagate = True


def main(script: str, task: Task) -> None:
    """Composes `conf/<script>.yaml` with the process's command line and calls `task` with it.

    Args:
        script: name of the yaml.
        task: takes the config; if what it returns has some `failed`, the exit code is 1.

    Raises:
        SystemExit: with the exit code, unless it is 0.
    """
    if code := front_door(lambda _: _compose_and_call(script, task)):
        sys.exit(code)


def _compose_and_call(script: str, task: Task) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    from headkv.search_path import PluginFolders

    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors its own way, with exit code 1
    Plugins.instance().register(PluginFolders)
    started = False

    def call(config: "DictConfig") -> None:
        nonlocal started
        started = True
        given = HydraConfig.get()
        overrides = list(given.overrides.task)
        for source in given.runtime.config_sources:
            if "command-line" in source.provider and source.schema == "file":
                plugins.trust(Path(source.path))

        def job(_: object) -> int:
            outcome = task(plain(config, str(given.job.config_name), overrides))
            return 1 if getattr(outcome, "failed", 0) else 0

        if code := front_door(job):  # here: it may be another process, or Hydra adds its own line
            sys.exit(code)

    wrapped = hydra.main(version_base="1.3", config_path=str(CONF), config_name=script)(call)
    try:
        wrapped()
    except MissingConfigException as problem:
        group, _, name = (problem.missing_cfg_file or "").rpartition("/")
        what = group or "config"
        raise UserError(
            f"unknown {what} {name!r}",
            allowed=", ".join(problem.options or []) or "the files of conf/",
            do=f"set {what}= to one of these",
        ) from problem
    except (HydraException, OmegaConfBaseException) as problem:
        raise not_composed(script, problem) from problem
    except ValueError as problem:
        if started:
            raise
        raise not_composed(script, problem) from problem
