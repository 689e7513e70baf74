"""A scorer, an allocator and an entries transform that work together, by their names."""

from dataclasses import replace
from typing import Any, Self

from headkv.errors import choose
from headkv.methods.allocators.base import Allocator
from headkv.methods.entries.base import Entries
from headkv.methods.part import Part, Setting
from headkv.methods.scorers.base import Scorer


class Composition:
    """Parts by name, for a frozen dataclass that has them as fields."""

    scorer: Scorer
    allocator: Allocator
    entries: Entries

    @property
    def parts(self) -> dict[str, Part]:
        """Its parts by the group of their yaml."""
        return {"scorer": self.scorer, "allocator": self.allocator, "entries": self.entries}

    def parameter(self, path: str) -> float:
        """The value of a numeric parameter, e.g. of `allocator.beta`.

        Raises:
            UserError: it has none of this name.
        """
        part, name = self._place(path)
        return self.parts[part].number(name)

    def setting(self, path: str) -> Setting:
        """The value of a parameter that is a number, a word or a switch, e.g. `scorer.pooling`.

        Raises:
            UserError: it has none of this name.
        """
        part, name = self._place(path)
        return self.parts[part].setting(name)

    def with_parameter(self, path: str, value: Setting) -> Self:
        """The same method with another value of a parameter, e.g. of `scorer.base.kernel_size`.

        Raises:
            UserError: it has none of this name, or the value is out of bounds.
        """
        part, name = self._place(path)
        changed: Any = {part: self.parts[part].with_parameter(name, value)}
        return replace(self, **changed)  # type: ignore[type-var]

    def _place(self, path: str) -> tuple[str, str]:
        part, _, name = path.partition(".")
        choose("part of a method", part, list(self.parts))
        return part, name

    def check_model(self, num_layers: int, num_query_heads: int) -> None:
        """Raises `UserError` if a part was made for a model of another shape."""
        for part in self.parts.values():
            part.check_model(num_layers, num_query_heads)

    def for_layers(self, layers: list[int]) -> Self:
        """The method for a model of which only these layers are compressed."""
        changed: Any = {group: part.for_layers(layers) for group, part in self.parts.items()}
        return replace(self, **changed)  # type: ignore[type-var]
