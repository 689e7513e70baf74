"""From a composed config to rows of perplexity, a table and a figure."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from headkv.benchmarks.haystack import Haystack, evenly_spaced, find_essays
from headkv.errors import UserError
from headkv.evaluation.assembly import load
from headkv.evaluation.grid import Cell, build_cells
from headkv.evaluation.settings import Settings
from headkv.models.loaded import Loaded
from headkv.models.prompts import tokenise
from headkv.models.spec import ModelSpec
from headkv.storage import run_record
from headkv.storage.keys import digest
from headkv.storage.result_file import ResultFile, cell_path
from headkv.stream.measure import read
from headkv.stream.settings import Plan, by_size, check_length
from headkv.stream.show import load_stream, save_figures, table

ROW_FORMAT = 1
BLOCK = 256  # tokens whose mean loss a row tells apart


@dataclass(frozen=True)
class Row:
    """One line of a result file: one text under one cell."""

    id: str
    run_key: str
    columns: Mapping[str, Any]

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON object of the result file."""
        return {"id": self.id, **self.columns, "run_key": self.run_key}


def run_stream(settings: Settings, plan: Plan, spec: ModelSpec) -> str:
    """Reads what is missing and writes rows, `run.json`, a table and figures.

    Args:
        settings: from `check_stream`, as the others.
        plan: what to read.
        spec: of the model.

    Returns:
        The table, for a terminal.

    Raises:
        UserError: what only the loaded model or the essays tell, before anything is written.
    """
    loaded = load(spec)
    cells = _cells(settings, spec, loaded)
    first = min(settings.kv_sizes)
    check_length(settings, plan, loaded.max_prompt_tokens)
    ids = _texts(loaded, settings.data_dir, plan)
    folder = settings.output_dir / "stream" / loaded.name
    done = 0
    for cell in tqdm(cells, desc=f"stream {loaded.name}", unit="cell"):
        done += _cell(folder, loaded, cell, ids, first)
    record = run_record.describe(dict(settings.raw)) | {
        "weights": loaded.weights,
        "finished": run_record.now(),
        "outcome": {"read": done, "present": len(cells) * len(ids) - done},
    }
    run_record.save(folder, record)
    frame = load_stream(settings.output_dir)
    save_figures(frame, settings.output_dir / "figures")
    return table(frame, settings.output_dir / "tables")


def _cells(settings: Settings, spec: ModelSpec, loaded: Loaded) -> list[Cell]:
    """Every method cutting to every size; the full cache once."""
    found: dict[tuple[str, int | None], Cell] = {}
    for sized in by_size(settings):
        for cell in build_cells(sized, spec, loaded.model.config):
            name = cell.name.partition("+decode")[0]
            found.setdefault((name, cell.method.kv_size), replace(cell, name=name))
    return list(found.values())


def _texts(loaded: Loaded, data_dir: Path | None, plan: Plan) -> torch.Tensor:
    """Token ids of pieces of the essays, `[text, token]`."""
    essays = Haystack.read(find_essays(data_dir), "evaluation", loaded.tokenizer)
    rows = []
    for where in evenly_spaced(plan.texts):
        # A cut is as long as asked up to a few tokens; text read anew may be cut differently.
        found = tokenise(loaded.tokenizer, essays.cut(plan.tokens + 32, where)).ids
        rows.append(found[: plan.tokens])
    if min(map(len, rows)) < plan.tokens:
        raise UserError(
            f"tokens={plan.tokens}",
            allowed=f"up to {min(map(len, rows))}, as the essays are no longer",
            do="set tokens= lower, or data_dir= to a folder with more essays",
        )
    return torch.tensor(rows, device=loaded.model.device)


def _cell(folder: Path, loaded: Loaded, cell: Cell, ids: torch.Tensor, first: int) -> int:
    """Reads the texts that a cell has no row of; returns their number."""
    method = cell.method
    path = cell_path(
        folder, cell.name, method.kv_size, "essays", method.protocol, str(method.granularity)
    )
    identity = {
        "format": ROW_FORMAT,
        "weights": loaded.weights,
        "dtype": str(loaded.model.dtype),
        "cell": cell.identity,
        "prefilled": first,
    }
    file = ResultFile(path, digest(identity))
    keys = [digest(row, 8) for row in ids.tolist()]
    missing = [text for text, key in enumerate(keys) if not file.has(str(text), key)]
    if not missing:
        return 0
    file.lock()
    began = time.perf_counter()
    found = read(loaded.model, ids[missing], first, method)
    seconds = (time.perf_counter() - began) / len(missing)
    for text, reading in zip(missing, found, strict=True):
        mean = float(reading.losses.mean())
        blocks = [round(float(part.mean()), 4) for part in reading.losses.split(BLOCK)]
        columns = {
            "tokens": ids.shape[1],
            "prefilled": first,
            "loss": round(mean, 5),
            "perplexity": round(float(torch.tensor(mean).exp()), 4),
            "losses": blocks,
            "kv_size": method.kv_size,
            "compress_every": method.compress_every,
            "bits": method.bits,
            "protocol": method.protocol,
            "granularity": method.granularity,
            "decoding": reading.held.as_row(),
            "seconds": round(seconds, 3),
        }
        file.append(Row(str(text), file.key(keys[text]), columns))
    file.close()
    return len(missing)
