"""Rows of finished runs as one small table a benchmark, which the report's numbers are made from.

    python -m bench.findings_rows RESULTS      # writes results/findings/rows and provenance.json

Raw rows hold predictions and timings and are not in git; scores and divergences of every example
are, so that each number of docs/findings.md can be worked out again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.config import ROOT
from headkv.report.load import load_results
from headkv.storage.atomic import write_bytes, write_json

FOLDER = ROOT / "results" / "findings"
INDEX = ["question", "task", "id"]
MEASURES = {"score": 1, "kl": 4, "logprob": 3}
"""What is kept of a row, and to how many decimals."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the tables."""
    parser = argparse.ArgumentParser(prog="bench.findings_rows", description=__doc__)
    parser.add_argument("results", type=Path, help="output_dir of the runs")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    rows = load_results(given.results)
    records = []
    for benchmark, part in rows.groupby("benchmark"):
        write_bytes(given.out / "rows" / f"{benchmark}.csv", wide(part).to_csv().encode())
        (model,) = set(part["model"])
        runs = given.results / str(benchmark) / str(model) / "runs"
        records += [told(json.loads(path.read_text())) for path in sorted(runs.glob("*.json"))]
    write_json(given.out / "provenance.json", {"runs": records})
    return 0


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """A line an example and way of asking, a column a cell and measure, `METHOD@KV:MEASURE`.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.
    """
    fidelity = pd.DataFrame(rows["fidelity"].to_list(), index=rows.index).astype(float)
    sizes = rows["kv_size"].astype("object").where(rows["kv_size"].notna(), "full")
    long = rows[["task", "id", "score"]].assign(
        question=rows["compress_on"].map({"prompt": "seen", "context": "unseen"}),
        kl=fidelity["kl"],
        logprob=fidelity["reference_logprob"],
        cell=rows["method"] + "@" + sizes.astype(str),
    )
    table = long.pivot(index=INDEX, columns="cell", values=[*MEASURES])
    table = table.astype(float)
    for measure, decimals in MEASURES.items():
        table[measure] = table[measure].round(decimals)
    table.columns = [f"{cell}:{measure}" for measure, cell in table.columns]
    return table.sort_index()


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's record: nothing of where it lay."""
    config = record["config"]
    keys = ("task", "lengths", "limit", "seed", "kv_size", "compress_on", "benchmark")
    named = ("versions", "commit", "machine", "started", "finished", "weights", "cells", "data")
    return {key: record[key] for key in named if key in record} | {
        "settings": {key: config.get(key) for key in keys}
    }


if __name__ == "__main__":
    raise SystemExit(main())
