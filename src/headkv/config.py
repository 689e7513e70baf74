"""Reading `conf/`: the list of what exists is the list of yaml files.

Config files and constructors mirror each other; `instantiate` names the key that does not fit.
"""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from headkv.errors import UserError, choose

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


def names(group: str) -> list[str]:
    """Names of a config group, e.g. all methods."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load_group(group: str, name: str) -> dict[str, Any]:
    """The content of `conf/<group>/<name>.yaml`; raises `UserError` for an unknown name."""
    choose(group, name, names(group))
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}


def instantiate(what: str, settings: dict[str, Any], **given: Any) -> Any:
    """Calls the class that `_target_` names with the settings, `given` taking precedence.

    Args:
        what: what is being built, for messages.
        settings: content of a config file.
        given: parameters that are not None override the settings.

    Raises:
        UserError: a parameter the class does not take, or one of the wrong type.
    """
    module, _, name = settings["_target_"].rpartition(".")
    target = getattr(import_module(module), name)
    parameters = {key: value for key, value in settings.items() if key != "_target_"}
    parameters.update({key: value for key, value in given.items() if value is not None})
    known = list(inspect.signature(target).parameters)
    for key in parameters:
        if key not in known:
            raise UserError(
                f"{what} takes no parameter {key!r}",
                allowed=", ".join(known),
                do=f"remove {key}=",
            )
    missing = [
        key
        for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in parameters
    ]
    return target(**parameters, **dict.fromkeys(missing))
