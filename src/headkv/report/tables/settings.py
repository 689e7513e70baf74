"""Which settings were chosen for each method and KV size, as its rows say."""

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import TUNED, size_name, variant_of
from headkv.report.stats.summary import CELL
from headkv.report.tables.layout import ASKED, asked, in_order
from headkv.report.tables.table import Table

LONG = [*CELL, "parameter", "value"]


def chosen_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a cell and parameter that was chosen: `CELL`, `parameter`, `value`.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.
    """
    if "parameters" not in rows:
        return pd.DataFrame(columns=LONG)
    tuned = rows[rows["method"].map(variant_of).astype(bool) & rows["parameters"].notna()]
    return pd.DataFrame(
        [
            [*key, path, value]
            for key, part in in_order(tuned, CELL)
            for path, value in part["parameters"].iloc[0].items()
        ],
        columns=LONG,
    )


def settings_table(chosen: pd.DataFrame, benchmark: str, model: str) -> Table:
    """The chosen settings, a line a cell.

    Args:
        chosen: of `chosen_settings`.
        benchmark: for the caption.
        model: for the caption.
    """
    rows = []
    for key, part in in_order(chosen, CELL):
        pairs = zip(part["parameter"], part["value"], strict=True)
        words = [f"{path.partition('.')[2]} {value}" for path, value in pairs]
        rows.append([*asked(key), size_name(key[-1]), ", ".join(words)])
    told = (
        f"Chosen on the validation part, 15 % of the examples, which no table has: of this "
        f"benchmark ({TUNED['tuned']}) or of all together ({TUNED['tuned_on_all']}); the highest "
        "score, of equals the smallest KL. Every method had as many trials, its published settings "
        "among them; without these words it is as published."
    )
    title = f"{titled(benchmark, model)}: chosen settings"
    return Table(title, [*ASKED, "Cache", "Settings"], rows, told)
