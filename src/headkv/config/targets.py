"""From the `_target_` of a yaml to an object, its parameters checked before anything is called."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from headkv.config.plugins import packages
from headkv.config.typed import check_types
from headkv.errors import UserError

_Class = TypeVar("_Class")

_BUILDABLE: list[type] = []
"""The kinds of classes that a `_target_` may name."""


def buildable(kind: type[_Class]) -> type[_Class]:
    """Marks a class: a `_target_` may name it and its subclasses, and nothing else."""
    _BUILDABLE.append(kind)
    return kind


def instantiate(
    what: str, settings: Mapping[str, Any], base: type[Any] | None = None, /, **given: Any
) -> Any:
    """Calls the class that `_target_` names with the settings, `given` taking precedence.

    Nothing is converted: values are checked against the annotations and handed on as they are.

    Args:
        what: what is being built, for messages.
        settings: content of a config file.
        base: the class must be this one or a subclass; None: of any kind that is `buildable`.
        given: parameters; None leaves what the settings say.

    Raises:
        UserError: no such class, a parameter that it does not take or that is missing, or a value
            of the wrong type.
    """
    target = target_of(what, settings, base)
    parameters = {key: value for key, value in settings.items() if key != "_target_"}
    parameters |= {k: v for k, v in given.items() if v is not None or k not in parameters}
    known = inspect.signature(target).parameters
    for key, value in list(parameters.items()):
        if key not in known:
            if value is None and key in given:  # not given, and not taken
                del parameters[key]
                continue
            raise UserError(
                f"{what} takes no parameter {key!r}",
                allowed=", ".join(known) or "none",
                do=f"remove {key}=",
            )
        if value is None and key in given and known[key].default is not inspect.Parameter.empty:
            del parameters[key]
    for key, parameter in known.items():
        if key not in parameters and parameter.default is inspect.Parameter.empty:
            raise UserError(f"{what} lacks {key}", allowed="a value for it", do=f"set {key}=")
    check_types(what, target, parameters)
    return target(**parameters)


def target_of(what: str, settings: Mapping[str, Any], base: type[Any] | None = None) -> Any:
    """The class that `_target_` names, in this package or in one that the user declared.

    Args:
        what: what is being built, for the message.
        settings: content of a config file.
        base: as `instantiate` takes it.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    path = settings.get("_target_")
    trusted = ["headkv", *packages()]
    module, _, name = str(path).rpartition(".")
    found = None
    if isinstance(path, str) and module.partition(".")[0] in trusted:
        try:
            found = getattr(import_module(module), name, None)
        except Exception as problem:  # a user's package runs here
            absent = problem.name if isinstance(problem, ModuleNotFoundError) else None
            if not absent or not module.startswith(absent):
                if module.partition(".")[0] == "headkv":
                    raise
                raise UserError(
                    f"{what}: importing {module} fails ({type(problem).__name__}: {problem})",
                    allowed="a module that can be imported",
                    do="mend it, or change _target_ in its yaml",
                ) from problem
    kinds = tuple(_BUILDABLE) if base is None else (base,)
    built = isinstance(found, type) and issubclass(found, kinds)
    if not built or inspect.isabstract(found):
        kind = "" if base is None else f" of kind {base.__name__}"
        raise UserError(
            f"{what}: _target_ {path} is no class{kind}",
            allowed=f"classes{kind} of {', '.join(trusted)}",
            do="change _target_ in its yaml",
        )
    return found


def without_targets(content: Any) -> Any:
    """A recorded config without the classes that it names: a record is data, not code.

    Args:
        content: of a record; its names are looked up in `conf/` and declared plug-ins instead.
    """
    if isinstance(content, Mapping):
        kept = {key: value for key, value in content.items() if key != "_target_"}
        return {key: without_targets(value) for key, value in kept.items()}
    return [without_targets(each) for each in content] if isinstance(content, list) else content
