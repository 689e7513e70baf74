"""From result files to tables, figures and a page. Reads what lies on disk; never loads a model.

What notebooks and other packages use of it can be imported from here; of head scores, from
`headkv.report.heads`.
"""

from headkv.lazy import lazy

_HOMES = {
    "PLOT_STYLE": "figures.style",
    "Table": "tables.table",
    "accuracy_figure": "figures.accuracy",
    "accuracy_table": "tables.scores",
    "by_model": "groups",
    "bytes_figure": "figures.accuracy",
    "heatmap_figure": "figures.heatmap",
    "load_results": "load",
    "marked": "stats.best",
    "memory_table": "tables.scores",
    "method_name": "names",
    "method_order": "names",
    "paired_table": "tables.comparisons",
    "paired_tests": "stats.paired",
    "results_folder": "load",
    "size_name": "names",
    "summarise": "stats.summary",
    "task_table": "tables.scores",
    "write_figures": "figures.results",
    "write_page": "html.page",
    "write_tables": "tables.results",
}
__all__ = list(_HOMES)

__getattr__ = lazy(__name__, _HOMES)
