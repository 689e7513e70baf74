"""Tables of a model's head scores: best heads, stability, overlap; CSV for numbers, Markdown."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from headkv.report.heads.scores import TOP, ScoreFile, overlap, stability, summary, top_heads
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes


def write_head_tables(files: Sequence[ScoreFile], model: str, folder: Path) -> list[Path]:
    """Writes `top_heads`, `stability` and `overlap`, each as .csv and .md.

    Args:
        files: of one model.
        model: for the titles.
        folder: where to.

    Returns:
        The files, in the order written.
    """
    best, halves, pairs = top_heads(files), stabilities(files), overlap(files)
    written = write_table(
        folder, "top_heads", best, [_summary_table(files, model), _top_table(best, model)]
    )
    written += write_table(folder, "stability", halves, [_stability_table(halves, model)])
    if len(pairs):
        written += write_table(folder, "overlap", pairs, [_overlap_table(pairs, model)])
    return written


def stabilities(files: Sequence[ScoreFile]) -> pd.DataFrame:
    """The lines of `stability` of all files together."""
    return pd.concat([stability(file) for file in files], ignore_index=True)


def write_table(folder: Path, name: str, numbers: pd.DataFrame, tables: list[Table]) -> list[Path]:
    """Writes the numbers as CSV, the tables as Markdown.

    Args:
        folder: where to.
        name: of both files, without their ending.
        numbers: one line a row of the CSV file.
        tables: one below the other in the Markdown file.

    Returns:
        The files, in the order written.
    """
    csv = numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    text = "\n".join(table.to_markdown() for table in tables)
    return [
        write_bytes(folder / f"{name}.csv", csv.encode()),
        write_bytes(folder / f"{name}.md", text.encode()),
    ]


def _summary_table(files: Sequence[ScoreFile], model: str) -> Table:
    rows = [
        [str(line[key]) for key in ("file", "tests", "heads", "zero", "half", "most")]
        for _, line in summary(files).iterrows()
    ]
    header = ["Scores", "Tests", "Heads", "Never scored", "Hold 50 %", "Hold 90 %"]
    return Table(f"{model}: head scores", header, rows, "Tests are those that counted.")


def _top_table(best: pd.DataFrame, model: str) -> Table:
    names = list(dict.fromkeys(best["file"]))
    shown = {(line["file"], line["rank"]): line for _, line in best.iterrows()}
    rows = []
    for rank in range(1, min(TOP, int(best["rank"].max())) + 1):
        lines = [shown[name, rank] for name in names]
        rows.append([str(rank), *(f"{a['layer']}-{a['head']} ({a['share']:.1%})" for a in lines)])
    note = "Layer-head, and its share of all scores."
    return Table(f"{model}: best heads", ["Rank", *names], rows, note)


def _stability_table(halves: pd.DataFrame, model: str) -> Table:
    rows = []
    for _, line in halves.iterrows():
        shown = [
            f"{line[name]:.2f} [{line[f'{name}_low']:.2f}, {line[f'{name}_high']:.2f}]"
            for name in ("pearson", "spearman", "top")
        ]
        full = "" if pd.isna(line["full"]) else f"{line['full']:.2f}"
        rows.append([str(line["file"]), str(line["tests"]), *shown, full])
    header = ["Scores", "Tests a half", "Pearson", "Spearman", f"Top {TOP} shared", "All tests"]
    note = (
        "Two halves of the tests that share none: mean and middle 95 % of 200 draws. All tests: "
        "Pearson correlation to expect of two whole files (Spearman-Brown)."
    )
    return Table(f"{model}: agreement of two halves", header, rows, note)


def _overlap_table(pairs: pd.DataFrame, model: str) -> Table:
    counts = sorted(set(pairs["k"]))
    rows = []
    for (one, two), part in pairs.groupby(["first", "second"], sort=False):
        shared = {line["k"]: line for _, line in part.iterrows()}
        cells = [f"{shared[k]['shared']} ({shared[k]['chance']:.1f})" for k in counts]
        first = part.iloc[0]
        rows.append(
            [f"{one}, {two}", *cells, f"{first['pearson']:.2f}", f"{first['spearman']:.2f}"]
        )
    header = ["Scores", *(f"Top {k}" for k in counts), "Pearson", "Spearman"]
    note = "Best heads in common, in brackets how many chance gives; correlations over all heads."
    return Table(f"{model}: do two kinds name the same heads", header, rows, note)
