"""What scorers, allocators and entries transforms have in common: checked parameters, a name.

Plain frozen dataclasses. Every field is checked against its annotation when a part is made, from a
yaml, the command line or Python alike, so that no setting can be silently wrong.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from headkv.config import buildable
from headkv.config.typed import Count, check_types
from headkv.errors import UserError
from headkv.storage.head_scores import mean_scores, read_scores
from headkv.storage.layer_importance import read_importance

__all__ = ["Count", "Part", "Setting", "table_of"]

Setting = int | float | str
"""A value that can be chosen; switches are whole numbers to Python."""


@buildable
@dataclass(frozen=True, eq=False)
class Part:
    """A part that a method is composed of.

    Attributes:
        name: the name of its yaml, e.g. `window`.
        resources: what must be read from a file of the model, of `head_scores` and
            `layer_importance`; each is a field of the same name.
    """

    name: ClassVar[str] = ""
    resources: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_types(
            self.name, type(self), {each.name: getattr(self, each.name) for each in fields(self)}
        )

    def for_layers(self, layers: list[int]) -> Self:
        """The part for a model of which only these layers are compressed."""
        return self

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """Raises `UserError` if the part was made for a model of another shape."""

    @cached_property
    def key(self) -> Hashable:
        """Equal for parts that do the same; of a part with parameters unknown to JSON, itself."""
        try:
            return type(self), json.dumps(self.parameters, sort_keys=True)
        except TypeError:
            return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters as JSON takes them; tensors as a hash of their values."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def with_parameter(self, path: str, value: Setting) -> Self:
        """The same part with another value of a parameter.

        Args:
            path: its name; `base.NAME` of a part that this one works over.
            value: within its bounds; a whole number stands for the decimal one.

        Raises:
            UserError: it has no such parameter, or the value is out of bounds.
        """
        own, _, inner = path.partition(".")
        if isinstance(self.setting(path), float) and type(value) is int:
            value = float(value)
        changed = getattr(self, own).with_parameter(inner, value) if inner else value
        return replace(self, **{own: changed})

    def setting(self, path: str) -> Setting:
        """The value of a parameter that is a number, a word or a switch.

        Args:
            path: as of `with_parameter`.

        Raises:
            UserError: there is none of this name, or it says which file of the model is read.
        """
        own, _, inner = path.partition(".")
        found = getattr(self, own) if own in {each.name for each in fields(self)} else None
        if inner and isinstance(found, Part):
            return found.setting(inner)
        if inner or self._says_which_file(own) or not isinstance(found, int | float | str):
            raise self._lacks("parameter to choose", path)
        return found

    def number(self, path: str) -> float:
        """The value of a numeric parameter.

        Args:
            path: as of `with_parameter`.

        Raises:
            UserError: there is none of this name.
        """
        own, _, inner = path.partition(".")
        if inner and isinstance(base := getattr(self, own, None), Part):
            return base.number(inner)
        found = self.parameters.get(path)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._lacks("numeric parameter", path, numeric=True)
        return float(found)

    def _says_which_file(self, key: str) -> bool:
        return key in self.resources or (key == "kind" and "head_scores" in self.resources)

    def _lacks(self, what: str, path: str, numeric: bool = False) -> UserError:
        known = [
            key
            for key, value in self.parameters.items()
            if isinstance(value, int | float | str)
            and not self._says_which_file(key)
            and not (numeric and isinstance(value, bool | str))
        ]
        return UserError(
            f"{self.name} has no {what} {path!r}",
            allowed=", ".join(known) or "none",
            do="choose one of these",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        values = value.detach().to("cpu", torch.float64).contiguous()
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]
    return list(value) if isinstance(value, tuple) else value


def table_of(given: Any, what: str, dims: int, do: str) -> Tensor:
    """A table of scores as float64 on the CPU.

    Args:
        given: the tensor, an array or nested list of numbers, or the path of a file of them.
        what: its name, for the message.
        dims: 1 for `[layer]`, 2 for `[layer, query_head]`.
        do: what to do if it cannot be used.

    Raises:
        UserError: it is missing, of another shape, negative or not finite.
    """
    shape = "[layer, query head]" if dims == 2 else "[layer]"
    allowed = f"finite numbers, not negative, {shape}, as a tensor or in a file"
    if isinstance(given, str | Path):
        given = mean_scores(read_scores(given)[1]) if dims == 2 else read_importance(given)
    try:
        table = torch.as_tensor(given).detach()
        if table.is_complex() or table.dtype == torch.bool or not table.numel():
            raise TypeError
        table = table.to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UserError(
            f"{what} of type {type(given).__name__}", allowed=allowed, do=do
        ) from problem
    if (
        table.ndim != dims
        or not table.numel()
        or not bool(torch.isfinite(table).all() and (table >= 0).all())
    ):
        raise UserError(f"{what} of shape {tuple(table.shape)}", allowed=allowed, do=do)
    return table
