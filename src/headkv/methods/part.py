"""What scorers, allocators and entries transforms have in common: checked parameters, a name.

Plain frozen dataclasses. Every field is checked against its annotation when a part is made, from a
yaml, the command line or Python alike, so that no setting can be silently wrong.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from headkv.config import buildable
from headkv.errors import UserError
from headkv.typed import Count, check_types

__all__ = ["Count", "Part", "table_of"]


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

    def with_parameter(self, parameter: str, value: float) -> Self:
        """The same part with another value of a numeric parameter.

        Raises:
            UserError: it has no such parameter, or the value is out of bounds.
        """
        self.number(parameter)
        return replace(self, **{parameter: value})

    def number(self, parameter: str) -> float:
        """The value of a numeric parameter.

        Raises:
            UserError: there is none of this name.
        """
        numeric = {
            key: value
            for key, value in self.parameters.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        if parameter not in numeric:
            raise UserError(
                f"{self.name} has no numeric parameter {parameter!r}",
                allowed=", ".join(numeric) or "none",
                do="choose one of these",
            )
        return float(numeric[parameter])


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        values = value.detach().to("cpu", torch.float64).contiguous()
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]
    return list(value) if isinstance(value, tuple) else value


def table_of(given: Any, what: str, dims: int, do: str) -> Tensor:
    """A table of scores as float64 on the CPU.

    Args:
        given: the tensor, or an array or nested list of numbers.
        what: its name, for the message.
        dims: 1 for `[layer]`, 2 for `[layer, query_head]`.
        do: what to do if it cannot be used.

    Raises:
        UserError: it is missing, of another shape, negative or not finite.
    """
    shape = "[layer, query head]" if dims == 2 else "[layer]"
    allowed = f"finite numbers, not negative, {shape}, as a tensor"
    if isinstance(given, str):
        raise UserError(f"{what} given as a file's name", allowed=allowed, do=do)
    try:
        table = torch.as_tensor(given).detach()
        if table.is_complex() or not table.numel():
            raise TypeError
        table = table.to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UserError(
            f"{what} of type {type(given).__name__}", allowed=allowed, do=do
        ) from problem
    if table.ndim != dims or not bool(torch.isfinite(table).all() and (table >= 0).all()):
        raise UserError(f"{what} of shape {tuple(table.shape)}", allowed=allowed, do=do)
    return table
