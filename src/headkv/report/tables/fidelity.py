"""The table of fidelity: how far predictions are from those under the full cache."""

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import size_name
from headkv.report.stats.summary import ALL_TASKS
from headkv.report.tables.layout import ASKED, INTERVAL, NOT_RUN, SEEN, asked, by_size, note
from headkv.report.tables.table import Table


def fidelity_table(measured: pd.DataFrame, benchmark: str, model: str) -> Table:
    """How far the model's predictions under the compressed cache are from the full one's.

    Args:
        measured: of `fidelity_cells`.
        benchmark: for the caption.
        model: for the caption.
    """
    whole = measured[measured["task"] == ALL_TASKS]
    rows = []
    for key, part in by_size(whole):
        line = part.iloc[0]
        shown = [*asked(key), size_name(key[-1]), f"{line['n']}/{line['expected']}"]
        if line["n"] == line["expected"]:
            shown[-1] = str(line["n"])
        for measure, digits in (("logprob_difference", 3), ("kl", 3), ("agreement", 1)):
            values = [line[f"{measure}{end}"] for end in ("", "_low", "_high")]
            sign = "+" if measure == "logprob_difference" else ""
            mean, low, high = (f"{value:{sign}.{digits}f}" for value in values)
            ends = "" if pd.isna(values[1]) else f" [{low}, {high}]"
            shown.append(NOT_RUN if pd.isna(values[0]) else mean + ends)
        rows.append(shown)
    several = "mean of the tasks' means " if measured["task"].nunique() > 2 else "mean "
    told = (
        "Log-prob difference: log-probability of the reference answer under the compressed cache "
        "minus under the full one, nats a token, 0 is no loss. KL: divergence of the predictions "
        "from the full cache's along its own answer, nats a token. Agreement: how often both find "
        "the same token likeliest, in %. The first token of an answer, which the prompt's last "
        f"position predicts, counts in the log-probability only. {SEEN} {INTERVAL} {note(rows)}"
    )
    title = f"{titled(benchmark, model)}: fidelity to the full cache, {several}[95% CI]"
    header = [*ASKED, "Cache", "n", "Log-prob difference", "KL", "Agreement"]
    return Table(title, header, rows, told.strip())
