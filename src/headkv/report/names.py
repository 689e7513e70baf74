"""How methods and KV sizes are shown: what the `display:` block of a method's yaml says.

A name in a result row need not be a method that is known here: a stranger is shown by its own
name, after the others, in a look of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import inf
from typing import Any

import pandas as pd

from headkv.config import load_group, names
from headkv.errors import UserError

DEFAULT_SETTING = ("corrected", "kv_head")
QUESTION = {"prompt": "seen", "context": "not seen"}
"""`compress_on` as the column `Question` says it: was the question there when it was compressed?"""

TUNED = {"tuned": "tuned", "tuned_on_all": "tuned on all"}
"""What stands behind the name of a method whose settings were chosen: on its benchmark, on all."""


@dataclass(frozen=True)
class Display:
    """How a method is shown.

    Attributes:
        name: what a reader knows it by.
        order: its place among the others, ascending.
        colour: of its line and marks, as matplotlib takes it.
        marker: matplotlib's; empty for none.
        line: matplotlib's line style, a name or `(offset, (on, off, ...))`.
        mark: what a control changes of the method it shows itself as; empty for a method.
    """

    name: str
    order: float = inf
    colour: str = "#000000"
    marker: str = "*"
    line: str | tuple[int, Sequence[int]] = "-"
    mark: str = ""


# The efficiency experiment's baseline is no method, so that no yaml can say how it is shown.
BASELINES = {"dynamic_cache": Display("DynamicCache", 5, "#000000", "+", ":")}


@lru_cache
def display(method: str) -> Display:
    """How a method is shown, by its name in `conf/method`; read once.

    Raises:
        UserError: its yaml's `display:` has a key that is not known.
    """
    if method in BASELINES:
        return BASELINES[method]
    if method not in names("method"):
        return Display(method)
    block: dict[str, Any] = dict(load_group("method", method).get("display") or {})
    if "control_of" in block:
        return replace(display(block["control_of"]), mark=str(block.get("mark", method)))
    known = [field.name for field in fields(Display)]
    if unknown := [key for key in block if key not in known]:
        raise UserError(
            f"display of method {method} has no key {unknown[0]!r}",
            allowed=", ".join(["control_of", *known]),
            do=f"change the display: of conf/method/{method}.yaml",
        )
    if isinstance(line := block.get("line"), list):
        block["line"] = (line[0], tuple(line[1]))
    return Display(**{"name": method, **block})


def parts_of(method: str) -> tuple[str, list[str]]:
    """The method of a cell, and the scorer and allocator that it ran with instead of its own."""
    own, *others = method.split("+")
    return own, others


def method_name(
    method: str,
    protocol: str = "corrected",
    granularity: str = "kv_head",
    compress_on: str = "prompt",
) -> str:
    """The name a reader knows, with whatever is not the default in brackets.

    Args:
        method: as rows name it: `headkv_r2`, or `headkv_r2+keydiff` with another scorer.
        protocol: the row's.
        granularity: the row's.
        compress_on: the row's; left out where a column of its own says it.
    """
    own, others = parts_of(method)
    shown = display(own)
    extra = [shown.mark] if shown.mark else []
    if (protocol, granularity) != DEFAULT_SETTING:
        extra += [protocol, granularity.replace("_", " ")]
    if compress_on == "context":
        extra.append(f"question {QUESTION['context']}")
    name = " + ".join([shown.name, *(each for each in others if each not in TUNED)])
    name = ", ".join([name, *(TUNED[each] for each in others if each in TUNED)])
    return f"{name} ({', '.join(extra)})" if extra else name


def method_order(method: str) -> tuple[float, str]:
    """Sort key: by `order`, controls and other pairings beside their method, strangers last.

    A method with chosen settings stands behind itself as published.
    """
    return (display(parts_of(method)[0]).order, method)


def variant_of(method: str) -> str:
    """Which of `TUNED` a method is, by its name in rows; empty: as published."""
    return next((each for each in parts_of(method)[1] if each in TUNED), "")


def question_name(compress_on: str) -> str:
    """Whether the question was seen, in words; a value that is not known stands for itself."""
    return QUESTION.get(compress_on, str(compress_on))


def size_name(kv_size: Any) -> str:
    """What a KV size is called: `KV 128`, or `full` where there is none."""
    return "full" if pd.isna(kv_size) else f"KV {int(kv_size)}"


def budget_name(share: float) -> str:
    """What a share of the cache is called: `12.5 %`, or `full` where there is none."""
    return "full" if pd.isna(share) else f"{share:.3g} %"
