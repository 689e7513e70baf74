"""What the `run_*.py` scripts share: Hydra around a function, and errors in one line.

Exit code 2 is the user's mistake: one line on stderr, no traceback.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headkv.config import CONF
from headkv.errors import UserError


def main(config_name: str, task: Callable[[dict[str, Any]], object]) -> None:
    """Composes `conf/<config_name>.yaml` with the command line and calls `task` with it."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors its own way, with exit code 1

    def call(config: DictConfig) -> None:
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        try:
            task({str(key): value for key, value in plain.items()})
        except UserError as problem:  # caught here, or Hydra adds a line of its own
            _fail(str(problem))

    wrapped = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(call)
    try:
        wrapped()
    except MissingConfigException as problem:
        group, _, name = (problem.missing_cfg_file or "").rpartition("/")
        allowed = ", ".join(problem.options or []) or "the files of conf/"
        what = group or "config"
        _fail(f"unknown {what} {name!r}; allowed: {allowed}; set {what}= to one of these")
    except (HydraException, OmegaConfBaseException) as problem:
        reason = " ".join(str(problem).split())
        _fail(f"{reason}; allowed: the keys that --cfg job lists; check the command line")
    except KeyboardInterrupt:
        print("interrupted: finished rows are kept, run the same command to go on", file=sys.stderr)
        sys.exit(130)


def _fail(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
