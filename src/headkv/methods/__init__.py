"""Compression methods: scorers, allocators and entries transforms, composed by name."""

from typing import TYPE_CHECKING

from headkv.lazy import lazy

if TYPE_CHECKING:  # `as` says that they are offered here
    from headkv.methods.build import build_method as build_method
    from headkv.methods.build import compose as compose
    from headkv.methods.evidence import Evidence as Evidence
    from headkv.methods.kept import Kept as Kept
    from headkv.methods.method import GRANULARITIES as GRANULARITIES
    from headkv.methods.method import PROTOCOLS as PROTOCOLS
    from headkv.methods.method import Method as Method
    from headkv.methods.selection import select as select

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
__all__ = list(_HOMES)

__getattr__ = lazy(__name__, _HOMES)
