"""The table of fewer bits and more entries in the same bytes."""

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import method_name, question_name
from headkv.report.stats.summary import VARIANT
from headkv.report.tables.layout import ASKED, INTERVAL, NOT_RUN, in_order, note, p_value, score_ci
from headkv.report.tables.table import Table


def equal_bytes_table(lines: pd.DataFrame, benchmark: str, model: str) -> Table:
    """A line a cell: 16 bits, and below it fewer bits in the same bytes.

    Args:
        lines: of `equal_bytes`.
        benchmark: for the caption.
        model: for the caption.
    """
    rows = []
    for key, part in in_order(lines, [*VARIANT, "entries_16"]):
        for _, line in part.iterrows():
            shown = [method_name(*key[:3]), question_name(key[3]), str(line["bits"])]
            shown += [f"{line['kv_size']:.0f}", f"{line['cache_mb']:.2f}"]
            if line["n"] < line["expected"]:
                rows.append([*shown, f"{line['n']}/{line['expected']}", *[NOT_RUN] * 6])
                continue
            shown += [f"{line['n']}", score_ci(line)]
            if pd.isna(line.get("p")):
                shown += [NOT_RUN] * 3
            else:
                ends = f" [{line['difference_low']:+.1f}, {line['difference_high']:+.1f}]"
                shown.append(f"{line['difference']:+.1f}{ends}")
                shown.append(f"{line['better']:.0f}, {line['worse']:.0f}")
                shown.append(p_value(line["p_holm"]))
            shown.append(NOT_RUN if pd.isna(line["kl"]) else f"{line['kl']:.3f}")
            shown.append(NOT_RUN if pd.isna(line.get("kl_p")) else p_value(line["kl_p_holm"]))
            rows.append(shown)
    header = [*ASKED, "Bits", "Entries", "MB", "n", "Score [95% CI]"]
    header += ["Against 16 bits [95% CI]", "Better, worse", "p (Holm)", "KL", "KL: p (Holm)"]
    told = (
        "Entries: mean a stored head keeps; bytes are counted on the cache, scales and zeros "
        "included. p: against 16 bits in the same bytes, on the same examples: exact McNemar for "
        f"hits and misses, else a paired permutation test, two-sided; Holm: over all lines. "
        f"{INTERVAL} KL: nats a token along the full cache's own answer. {note(rows)}"
    )
    title = f"{titled(benchmark, model)}: fewer bits, more entries, equal bytes"
    return Table(title, header, rows, told.strip())
