"""What head scores look like: tables and figures of score files, and of heads switched off."""

from importlib import import_module
from typing import Any

_HOMES = {
    "ScoreFile": "scores",
    "budget_figure": "figures",
    "distribution_figure": "figures",
    "heatmap_figure": "figures",
    "looks": "figures",
    "overlap": "scores",
    "read_score_file": "scores",
    "stability": "scores",
    "stability_figure": "figures",
    "summary": "scores",
    "write_head_tables": "tables",
    "write_masking": "masking",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: tables must not wait for matplotlib."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
