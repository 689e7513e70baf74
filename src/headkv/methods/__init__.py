"""Compression methods: scorers, allocators and entries transforms, composed by name."""

from typing import TYPE_CHECKING

from headkv.lazy import lazy

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

__getattr__ = lazy(__name__, _HOMES)
