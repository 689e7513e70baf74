"""What head scores look like: tables and figures of score files, and of heads switched off."""

from headkv.lazy import lazy

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

__getattr__ = lazy(__name__, _HOMES)
