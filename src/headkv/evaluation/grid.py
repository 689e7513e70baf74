"""The cells of a run: every method at every KV size, each with its own key and files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from headkv.errors import UserError
from headkv.evaluation.model_files import ModelFiles
from headkv.evaluation.settings import Settings
from headkv.methods import Method, compose
from headkv.methods.build import resources
from headkv.models.spec import ModelSpec

BETA = "allocator.beta"  # what `beta=` means

Part = str | Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One method at one KV size.

    Attributes:
        name: the method's name, with the scorer and allocator that take the place of its own.
        method: the method, ready to compress.
        identity: everything about it that changes the output, for the run key.
    """

    name: str
    method: Method
    identity: dict[str, Any]

    def with_parameter(self, path: str, value: float, name: str | None = None) -> "Cell":
        """The same cell with another value of a numeric parameter.

        Args:
            path: such as `allocator.beta`.
            value: within the parameter's bounds.
            name: another name; None keeps it.

        Raises:
            UserError: the method has no such parameter, or the value is out of bounds.
        """
        method = self.method.with_parameter(path, value)
        added = {k: v for k, v in self.identity.items() if k not in method.identity}
        return Cell(name or self.name, method, {**method.identity, **added})

    def has_parameter(self, path: str) -> bool:
        """Whether the method has a numeric parameter at a path such as `allocator.beta`."""
        try:
            self.method.parameter(path)
        except UserError:
            return False
        return True


def build_cells(settings: Settings, spec: ModelSpec, config: Any) -> list[Cell]:
    """Builds all cells asked for; FullKV is one, whatever the sizes, scorers and allocators.

    A parameter that is to be chosen, or was, is left to `headkv.evaluation.tuning`.

    Args:
        settings: the settings of the run.
        spec: names the model's head-score and layer-importance files.
        config: the model's transformers config.

    Raises:
        UserError: a method's parameter or KV size is out of bounds, its scores are missing or
            another model's, or a setting has no part in any cell.
    """
    files = ModelFiles(settings, spec, config)
    cells = [
        Cell(method.name, method, method.identity)
        for name, content in settings.methods.items()
        for method in _methods(settings, files, name, content)
    ]
    files.check_given()
    if settings.beta is None or isinstance(settings.beta, str):
        return cells
    if not any(cell.has_parameter(BETA) for cell in cells):
        raise UserError(
            f"beta={settings.beta} with method {', '.join(sorted({each.name for each in cells}))}",
            allowed="methods that have a beta, such as headkv_r, headkv_r2",
            do="leave beta= out, or set method=[headkv_r,headkv_r2]",
        )
    beta = float(settings.beta)
    return [cell.with_parameter(BETA, beta) if cell.has_parameter(BETA) else cell for cell in cells]


def _methods(
    settings: Settings, files: ModelFiles, name: str, content: Mapping[str, Any]
) -> Iterator[Method]:
    """A method of the config with its own parts or those that take their place, at every size."""

    def build(label: str, kv_size: int, scorer: Part | None, allocator: Part | None) -> Method:
        return compose(
            label,
            content,
            kv_size=kv_size,
            protocol=settings.protocol.name,
            granularity=settings.granularity,
            scorer=scorer,
            allocator=allocator,
            resource=files.read,
        )

    if "_target_" not in content and not resources(content):
        full = build(name, settings.kv_sizes[0], None, None)
        if full.kv_size is None:
            yield full
            return
    for scorer, allocator in product(settings.scorer or [None], settings.allocator or [None]):
        label = "+".join([name, *(_name(part) for part in (scorer, allocator) if part is not None)])
        for kv_size in settings.kv_sizes:
            yield build(label, kv_size, scorer, allocator)


def _name(part: Part) -> str:
    """A part's name; one that works over another is named with it, such as `critical-tova`."""
    if isinstance(part, str):
        return part
    own, base = str(part.get("name")), part.get("base")
    return own if base is None else f"{own}-{_name(base)}"
