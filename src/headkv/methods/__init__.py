"""Compression methods: scorers, allocators and entries transforms, composed by name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headkv.methods.build import build_method, compose
    from headkv.methods.evidence import Evidence
    from headkv.methods.kept import Kept
    from headkv.methods.method import GRANULARITIES, PROTOCOLS, Method
    from headkv.methods.selection import select

__all__ = [
    "GRANULARITIES",
    "PROTOCOLS",
    "Evidence",
    "Kept",
    "Method",
    "build_method",
    "compose",
    "select",
]

_HOMES = {
    "GRANULARITIES": "method",
    "PROTOCOLS": "method",
    "Evidence": "evidence",
    "Kept": "kept",
    "Method": "method",
    "build_method": "build",
    "compose": "build",
    "select": "selection",
}


def __getattr__(name: str) -> Any:
    """Imports names when first used: what checks settings must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
