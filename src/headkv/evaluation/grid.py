"""The cells of a run: every method at every KV size, each with its own key and files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from headkv.errors import UserError
from headkv.evaluation.early import without_parameter
from headkv.evaluation.model_files import ModelFiles
from headkv.evaluation.settings import Settings
from headkv.kernels.packed import entries_in_bytes_of
from headkv.methods import Method, compose
from headkv.methods.build import resources
from headkv.methods.part import Setting
from headkv.models.spec import ModelSpec
from headkv.records import text_config

BETA = "allocator.beta"  # what `beta=` means

Part = str | Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One method at one KV size.

    Attributes:
        name: the method's name, with the scorer and allocator that take the place of its own.
        method: the method, ready to compress.
        identity: everything about it that changes the output, for the run key.
        compress_on: `prompt`, or `context`: compressed before the question is seen.
        settings: whose they are, where a run tells them apart; see `headkv.records.Result`.
        parameters: by path, those that were chosen or tried.
    """

    name: str
    method: Method
    identity: dict[str, Any]
    compress_on: str = "prompt"
    settings: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)

    def with_parameter(self, path: str, value: Setting, name: str | None = None) -> "Cell":
        """The same cell with another value of a parameter.

        Args:
            path: such as `allocator.beta` or `scorer.base.pooling`.
            value: within the parameter's bounds.
            name: another name; None keeps it.

        Raises:
            UserError: the method has no such parameter, or the value is out of bounds.
        """
        method = self.method.with_parameter(path, value)
        added = {k: v for k, v in self.identity.items() if k not in method.identity}
        identity = {**method.identity, **added}
        return replace(self, name=name or self.name, method=method, identity=identity)

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
    text = text_config(config)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cells = [
        Cell(method.name, method, method.identity, compress_on)
        for name, content in settings.methods.items()
        for method in _methods(settings, files, name, content, width)
        for compress_on in settings.compress_on
    ]
    files.check_given()
    probed = {key: getattr(settings, key) for key in ("probe", "probe_chunks", "rerotate")}
    if probed != {"probe": "none", "probe_chunks": 1, "rerotate": False}:
        cells = [_probed(cell, probed) for cell in cells]
    if settings.beta is None or isinstance(settings.beta, str):
        return cells
    if not any(cell.has_parameter(BETA) for cell in cells):
        raise without_parameter(settings, [each.name for each in cells])
    beta = float(settings.beta)
    return [cell.with_parameter(BETA, beta) if cell.has_parameter(BETA) else cell for cell in cells]


def _methods(
    settings: Settings, files: ModelFiles, name: str, content: Mapping[str, Any], width: int
) -> Iterator[Method]:
    """A method of the config with its own parts or those that take their place, at every size."""

    def build(label: str, kv_size: int, bits: int, *parts: Part | None) -> Method:
        scorer, allocator, entries = parts
        return compose(
            label,
            content,
            kv_size=kv_size,
            bits=bits,
            decode_kv_size=settings.decode_kv_size,
            compress_every=settings.compress_every,
            offload=settings.offload,
            protocol=settings.protocol.name,
            granularity=settings.granularity,
            scorer=scorer,
            allocator=allocator,
            entries=entries,
            resource=files.read,
        )

    if "_target_" not in content and not resources(content):
        full = build(name, settings.kv_sizes[0], 16, None, None, None)
        if full.kv_size is None:
            for bits in settings.bits:
                yield replace(full, bits=bits, name=_label(name, bits, None, None))
            return
    given = (settings.scorer, settings.allocator, settings.entries)
    for parts in product(*(each or [None] for each in given)):
        label = "+".join([name, *(_name(part) for part in parts if part is not None)])
        for kv_size, bits in product(settings.kv_sizes, settings.bits):
            size = kv_size
            if settings.equal_bytes and bits != 16:
                uneven = build(label, kv_size, 16, *parts).allocator.name != "uniform"
                size = entries_in_bytes_of(kv_size, bits, width, uneven)
            shown = _label(label, bits, settings.decode_kv_size, settings.compress_every)
            yield build(shown, size, bits, *parts)


def _label(label: str, bits: int, decode_kv_size: int | None, every: int | None) -> str:
    """A cell's name with what is not the default behind it, as rows, paths and figures say it."""
    parts = [label] if bits == 16 else [label, f"{bits}bit"]
    if decode_kv_size is not None:
        parts.append(f"decode{decode_kv_size}" + (f"every{every}" if every else ""))
    return "+".join(parts)


def _probed(cell: Cell, probed: dict[str, Any]) -> Cell:
    """The cell under a probe, which its name says; FullKV needs none."""
    if cell.method.kv_size is None:
        return cell
    words = [] if probed["probe"] == "none" else [probed["probe"]]
    words += [f"chunks{probed['probe_chunks']}"] if probed["probe_chunks"] > 1 else []
    words += ["rerotated"] if probed["rerotate"] else []
    name = "+".join([cell.name, *words])
    return replace(cell, name=name, identity={**cell.identity, **probed})


def _name(part: Part) -> str:
    """A part's name; one that works over another is named with it, such as `critical-tova`."""
    if isinstance(part, str):
        return part
    own, base = str(part.get("name")), part.get("base")
    return own if base is None else f"{own}-{_name(base)}"
