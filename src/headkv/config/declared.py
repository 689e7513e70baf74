"""What the class that a `_target_` names takes, read off its source without importing it.

Scorers and allocators import torch, which takes seconds; a misspelt parameter must not wait for it.
The source stays the one place where parameters are declared: fields or `__init__` arguments, their
annotations, defaults and docstrings. What cannot be read so has no type here, and is checked when
it is built.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_type_hints

from headkv.config.source import Unread, file_of, lineage, value_of
from headkv.config.typed import check_values, checkers
from headkv.errors import UserError

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One parameter of a class.

    Attributes:
        hint: its annotation; `Any` where it cannot be read.
        default: its default, `inspect.Parameter.empty` if there is none.
        about: what the class's docstring says of it.
    """

    hint: Any
    default: Any
    about: str


@dataclass(frozen=True)
class Declared:
    """What a class says of itself.

    Attributes:
        parameters: by name, in order.
        constants: class attributes that are constants, e.g. `name`, `resources`.
    """

    parameters: dict[str, Parameter]
    constants: dict[str, Any]

    def default(self, parameter: str) -> Any:
        """The default of a parameter; None if it has none, or there is no such parameter."""
        found = self.parameters.get(parameter)
        return None if found is None or found.default is _REQUIRED else found.default

    @property
    def documented(self) -> dict[str, str]:
        """What its docstring says of each parameter."""
        return {name: each.about for name, each in self.parameters.items()}

    @property
    def numbers(self) -> list[str]:
        """Names of parameters whose default is a number."""
        return [
            name
            for name, each in self.parameters.items()
            if isinstance(each.default, int | float) and not isinstance(each.default, bool)
        ]

    def check(self, what: str, values: Mapping[str, Any]) -> None:
        """Checks names and types of parameters.

        Args:
            what: what is being built, for the message.
            values: by name.

        Raises:
            UserError: a parameter that it does not take, or the first value of a wrong type.
        """
        for key in values:
            if key not in self.parameters:
                raise UserError(
                    f"{what} takes no parameter {key!r}",
                    allowed=", ".join(self.parameters) or "none",
                    do=f"remove {key}=",
                )
        hints = {name: each.hint for name, each in self.parameters.items()}
        check_values(what, checkers(hints), values)


def read(path: str) -> Declared | None:
    """Reads a class off its source.

    Args:
        path: as a `_target_` has it, `package.module.Class`.

    Returns:
        None if there is no such source or class in it.
    """
    module, _, name = path.rpartition(".")
    file = file_of(module)
    return None if file is None else _read(module, name, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(module: str, name: str, stamp: int) -> Declared | None:
    try:
        lines = lineage(module, name)
    except Unread:
        return None
    parameters: dict[str, Parameter] = {}
    constants: dict[str, Any] = {}
    for home, cls in reversed(lines):  # what a class says goes before what its bases say
        about = described(ast.get_docstring(cls) or "")
        for statement in cls.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                parameters = dict(_arguments(home, statement, about))
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                key = statement.target.id
                if "ClassVar" in ast.unparse(statement.annotation):
                    _note(constants, home, key, statement.value)
                else:
                    hint = _hint(home, statement.annotation)
                    default = _default(home, statement.value)
                    inherited = parameters[key].about if key in parameters else ""
                    parameters[key] = Parameter(hint, default, about.get(key, inherited))
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                _note(constants, home, statement.targets[0].id, statement.value)
    return Declared(parameters, constants)


def of_class(target: Any) -> Declared:
    """The same of a class that is loaded, for those that have no source of their own.

    Args:
        target: a class or function.
    """
    about = described(inspect.getdoc(target) or "")
    source = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009
    try:
        hints = get_type_hints(source, include_extras=True)
    except NameError:  # an annotation that is imported for type checkers only
        hints = {}
    parameters = {
        name: Parameter(hints.get(name, Any), each.default, about.get(name, ""))
        for name, each in inspect.signature(target).parameters.items()
    }
    return Declared(parameters, {k: getattr(target, k, None) for k in dir(target) if k[0] != "_"})


def described(docstring: str) -> dict[str, str]:
    """What the sections `Attributes:` and `Args:` of a docstring say of each name, as one line.

    Args:
        docstring: in Google's style, without indentation.
    """
    found: dict[str, str] = {}
    inside, last = False, ""
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            inside = line.strip() in ("Attributes:", "Args:")
        elif inside and (start := re.match(r" {4}(\w+): (.*)", line)):
            last = start[1]
            found[last] = start[2].strip()
        elif inside and last and line.startswith(" " * 8):
            found[last] += " " + line.strip()
    return found


def _arguments(
    module: str, function: ast.FunctionDef, about: Mapping[str, str]
) -> Iterator[tuple[str, Parameter]]:
    given = function.args
    own = [*given.posonlyargs, *given.args][1:]
    defaults: list[ast.expr | None] = [None] * (len(own) - len(given.defaults))
    for argument, default in [
        *zip(own, [*defaults, *given.defaults], strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]:
        hint = Any if argument.annotation is None else _hint(module, argument.annotation)
        name = argument.arg
        yield name, Parameter(hint, _default(module, default), about.get(name, ""))


def _note(constants: dict[str, Any], module: str, key: str, value: ast.expr | None) -> None:
    try:
        constants[key] = value_of(module, value) if value is not None else None
    except Unread:
        constants.pop(key, None)


def _hint(module: str, node: ast.expr) -> Any:
    try:
        return value_of(module, node)
    except Unread:
        return Any


def _default(module: str, node: ast.expr | None) -> Any:
    try:
        return _REQUIRED if node is None else value_of(module, node)
    except Unread:
        return None  # there is one, whatever it is
