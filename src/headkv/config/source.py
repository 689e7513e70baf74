"""Classes and the values of plain expressions, read off a module's source: nothing is imported.

Nothing is executed but constructors of annotations (`Field`, `Annotated`, `Literal`).
"""

import ast
import builtins
import operator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Union

_READABLE = ("typing", "collections.abc", "pathlib", "pydantic", "headkv.config.typed")
"""Modules whose names may stand in an annotation and are imported to read it."""


class Unread(Exception):
    """An expression that is no plain annotation or constant."""


def file_of(module: str) -> Path | None:
    """The source of a module; no package is imported to find it."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        place = Path(folder, *rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    origin = None if spec is None or rest else spec.origin
    return Path(origin) if origin and Path(origin).is_file() else None  # not `frozen`


@lru_cache(maxsize=256)
def _bindings(module: str) -> dict[str, Any]:
    """What the names of a module stand for: (module, name) of an import, or a syntax tree."""
    file = file_of(module)
    if file is None:
        raise Unread(module)
    found: dict[str, Any] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            for each in statement.names:
                found[each.asname or each.name] = (statement.module, each.name)
        elif isinstance(statement, ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = statement.value
    return found


def lineage(module: str, name: str) -> list[tuple[str, ast.ClassDef]]:
    """A class and its bases with their modules, the class first; bases outside are left out."""
    found = _bindings(module).get(name)
    if isinstance(found, tuple):
        return lineage(*found)
    if not isinstance(found, ast.ClassDef):
        raise Unread(name)
    lines = [(module, found)]
    for base in found.bases:
        if isinstance(base, ast.Name) and base.id not in ("ABC", "object"):
            lines += lineage(module, base.id)
    return lines


def value_of(module: str, node: ast.expr) -> Any:
    """The value of an expression of names, constants, subscripts, `|` and annotation calls."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _named(module, name)
        case ast.Tuple(elts=elements):
            return tuple(value_of(module, each) for each in elements)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(module, operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return value_of(module, left) ** value_of(module, right)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            sides = value_of(module, left), value_of(module, right)
            try:
                return operator.or_(*sides)
            except TypeError:
                return Union[sides]  # noqa: UP007
        case ast.Subscript(value=base, slice=index):
            return value_of(module, base)[value_of(module, index)]
        case ast.Set(elts=elements):
            return {value_of(module, each) for each in elements}
        case ast.Call(func=function, args=arguments, keywords=keywords):
            called = value_of(module, function)
            if called is frozenset:
                return frozenset(*(value_of(module, each) for each in arguments))
            if getattr(called, "__module__", "").partition(".")[0] == "pydantic":
                given = {str(each.arg): value_of(module, each.value) for each in keywords}
                return called(*(value_of(module, each) for each in arguments), **given)
    raise Unread(ast.unparse(node))


def _named(module: str, name: str) -> Any:
    bound = _bindings(module).get(name)
    if isinstance(bound, tuple):
        home, original = bound
        if home in _READABLE:
            return getattr(import_module(home), original)
        return _named(home, original)
    if isinstance(bound, ast.expr):
        return value_of(module, bound)
    if bound is None and hasattr(builtins, name):
        return getattr(builtins, name)
    raise Unread(name)
