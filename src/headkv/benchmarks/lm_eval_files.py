"""Prompts of other people, read from the wheel of lm-eval, which is fetched and never installed.

Its yaml files are read as data. Where a prompt stands in its Python code, that code is parsed and
not run: `constant` and `returned_text` take literals out of the syntax tree.
"""

import ast
from typing import Any

import yaml

from headkv.downloads.wheels import LM_EVAL, fetch_asset

__all__ = ["LM_EVAL", "constant", "read_yaml", "returned_text"]


def read_yaml(name: str) -> dict[str, Any]:
    """Returns a yaml file of the wheel; what names Python code in it becomes None.

    Args:
        name: the file's name, without its folder.

    Raises:
        UserError: the wheel cannot be had.
    """
    text = (fetch_asset(LM_EVAL) / name).read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return content


def constant(name: str, variable: str) -> Any:
    """Returns the literal that a module of the wheel assigns to a variable.

    Args:
        name: the file's name, without its folder.
        variable: a name at the top level of the module.

    Raises:
        UserError: the wheel cannot be had.
    """
    for node in _tree(name).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return ast.literal_eval(node.value)
    raise KeyError(variable)


def returned_text(name: str, function: str) -> str:
    """Returns the text that a function of the wheel returns last, its variables as `{name}`.

    Args:
        name: the file's name, without its folder.
        function: a function whose last statement returns a text.

    Raises:
        UserError: the wheel cannot be had.
    """
    found = next(
        node
        for node in _tree(name).body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    last = found.body[-1]
    assert isinstance(last, ast.Return)
    parts = last.value.values if isinstance(last.value, ast.JoinedStr) else [last.value]
    texts = []
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            assert isinstance(part.value, ast.Name)
            texts.append(f"{{{part.value.id}}}")
        else:
            assert isinstance(part, ast.Constant)
            texts.append(str(part.value))
    return "".join(texts)


def _tree(name: str) -> ast.Module:
    return ast.parse((fetch_asset(LM_EVAL) / name).read_text(encoding="utf-8"))


class _Loader(yaml.SafeLoader):
    """Plain yaml; lm-eval's `!function` tags become None."""


_Loader.add_constructor("!function", lambda loader, node: None)
