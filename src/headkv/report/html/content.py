"""What the page shows of one benchmark and model, as plain data.

Everything here may come from a data set or a model. It is bounded, so that the page stays usable;
what is left out is counted, and the page says so.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.errors import UserError
from headkv.records import shorten
from headkv.report.names import display, method_name, parts_of, question_name, size_name
from headkv.report.stats.summary import ALL_TASKS, CELL
from headkv.report.tables.layout import in_order
from headkv.storage.kinds import lines_of
from headkv.storage.reading import read_if_sound
from headkv.storage.schemas import INSPECTION, PROMPT, RUN_RECORD, Schema

LOG = logging.getLogger(__name__)
MAX_EXAMPLES = 100  # of a task
TEXTS = ("prediction", "answers")
MAX_PROMPT = 6000  # characters
MAX_ANSWER = 1500  # characters
MAX_INSPECTED = 20  # prompts with kept tokens
MAX_INSPECTED_BYTES = 25_000_000  # of all of them

Json = dict[str, Any]


def cells_of(rows: pd.DataFrame) -> list[tuple[Any, Json]]:
    """Every method and size in display order: its key in `rows`, and what the page calls it."""
    keys = rows.groupby(CELL, dropna=False).size().reset_index()
    return [
        (
            _plain(key),
            {
                **dict(zip(CELL, _plain(key), strict=True)),
                "name": method_name(*key[:4]),
                "size": size_name(key[-1]),
            },
        )
        for key, _ in in_order(keys, CELL)
    ]


def scores_of(summary: pd.DataFrame, records: list[Json]) -> list[Json]:
    """The lines of the table of all cells: a cell and task each, its runs by number from 1.

    Args:
        summary: from `marked`.
        records: from `records_of`.
    """
    several = summary["task"].nunique() > 2  # one task and its mean are the same line
    found = []
    for key, part in in_order(summary, CELL):
        runs = [i for i, record in enumerate(records, 1) if _ran(record, _plain(key))]
        for _, line in part.sort_values("task").iterrows():
            if several or line["task"] != ALL_TASKS:
                found.append(
                    {
                        **line.to_dict(),
                        "name": method_name(*key[:3]),
                        "question": question_name(key[3]),
                        "size": size_name(key[-1]),
                        "complete": line["n"] == line["expected"],
                        "runs": runs,
                    }
                )
    return found


def examples_of(rows: pd.DataFrame, prompts: Mapping[tuple[str, str], str]) -> Json:
    """Examples and every cell's answer to them.

    Args:
        rows: of one benchmark and model.
        prompts: by task and id, as far as they are known.

    Returns:
        `cells`, `examples` with `answers` (references) and `given` (`[text, score]` or None, a
        cell each), and `left_out`: task -> examples that are not shown.
    """
    cells = cells_of(rows)
    place = {key: index for index, (key, _) in enumerate(cells)}
    examples: dict[tuple[str, str], Json] = {}
    names = rows[["task", "id"]].drop_duplicates()
    taken = names.groupby("task").size()
    names = names[names.groupby("task").cumcount() < MAX_EXAMPLES]
    wanted = rows[[*CELL, "task", "id", "score", *(n for n in TEXTS if n in rows)]]
    for row in wanted.merge(names, on=["task", "id"]).to_dict("records"):
        key = (row["task"], row["id"])
        if key not in examples:
            prompt = prompts.get(key)
            references = row["answers"] if isinstance(row.get("answers"), list) else []
            examples[key] = {
                "task": row["task"],
                "id": row["id"],
                "prompt": None if prompt is None else shorten(prompt, MAX_PROMPT),
                "answers": [shorten(str(reference), MAX_ANSWER) for reference in references],
                "given": [None] * len(cells),
            }
        given = shorten(str(row.get("prediction", "")), MAX_ANSWER)
        cell = _plain(row[name] for name in CELL)
        examples[key]["given"][place[cell]] = [given, float(row["score"])]
    left_out = {str(t): int(n) - MAX_EXAMPLES for t, n in taken.items() if n > MAX_EXAMPLES}
    shown = list(examples.values())
    return {"cells": [cell for _, cell in cells], "examples": shown, "left_out": left_out}


def prompts_of(folder: Path, inspections: list[Json]) -> dict[tuple[str, str], str]:
    """Prompts by task and id: the runner's `prompts.ndjson`, else what was inspected.

    Args:
        folder: of the run.
        inspections: from `inspections_of`.
    """
    found = {(i["task"], i["id"]): "".join(i["tokens"]) for i in inspections}
    path = folder / "prompts.ndjson"
    try:
        lines = lines_of(path, PROMPT)
    except UserError as problem:
        LOG.warning("ignored: %s", problem.what)
        return found
    if odd := sum(line.row is None for line in lines):
        LOG.warning("%s: ignored %d of %d lines", path.name, odd, len(lines))
    return found | {
        (line.row["task"], line.row["id"]): line.row["prompt"] for line in lines if line.row
    }


def inspections_of(folder: Path) -> tuple[list[Json], int]:
    """What `headkv inspect` wrote, and how many of its files are left out to bound the page."""
    found: list[Json] = []
    left_out = size = 0
    for path in sorted((folder / "inspect").glob("*.json")):
        size += path.stat().st_size
        if len(found) == MAX_INSPECTED or size > MAX_INSPECTED_BYTES:
            left_out += 1
            continue
        read = _read(path, INSPECTION)
        if read is None:
            continue
        for cell in read["cells"]:
            on = read.get("compress_on", "prompt")
            setting = (read["protocol"], cell["granularity"], on)
            cell["name"] = method_name(cell["method"], *setting)
            cell["control"] = bool(display(parts_of(cell["method"])[0]).mark)
            cell["size"] = size_name(cell["kv_size"])
        found.append(read)
    return found, left_out


def records_of(folder: Path) -> list[Json]:
    """Every run that wrote here, newest first."""
    paths = sorted(folder.glob("runs/*.json"), reverse=True) or [folder / "run.json"]
    read = [_read(path, RUN_RECORD) for path in paths if path.exists()]
    records = [record for record in read if record is not None]
    return sorted(records, key=lambda record: str(record.get("started")), reverse=True)


def _ran(record: Json, key: tuple[Any, ...]) -> bool:
    """Whether a run had this cell."""
    config = record.get("config")
    on = config.get("compress_on", "prompt") if isinstance(config, dict) else "prompt"
    several = on if isinstance(on, list) else [on]
    return any(
        _plain({"compress_on": each, **cell, "method": cell.get("name")}.get(n) for n in CELL)
        == key
        for cell in record.get("cells", [])
        for each in several
    )


def _plain(key: Any) -> tuple[Any, ...]:
    """A cell's key as JSON has it: None for the full cache's size, plain integers."""
    return tuple(
        None if pd.isna(part) else part if isinstance(part, str) else int(part) for part in key
    )


def _read(path: Path, schema: Schema) -> Json | None:
    content, wrong = read_if_sound(path, schema)
    if wrong:
        LOG.warning("%s: ignored: %s", path.name, wrong)
    return content
