"""Which tokens each head kept, for a few examples of a run: `headkv inspect FOLDER`.

Prefills an example once, compresses it under every cell of the run, and writes the prompt's tokens
and the kept positions to `<FOLDER>/inspect/`, where `python -m headkv.report html` finds them.
"""

from __future__ import annotations  # `headkv inspect` answers a mistake before torch is imported

import base64
import logging
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.cli import Parser, front_door
from headkv.config import load_group, names, without_targets
from headkv.errors import UserError, choose
from headkv.evaluation.early import check_run
from headkv.evaluation.settings import Settings
from headkv.records import Example
from headkv.storage import run_record
from headkv.storage.atomic import write_json
from headkv.storage.reading import read_if_sound, read_json
from headkv.storage.schemas import INSPECTION, RUN_RECORD

if TYPE_CHECKING:
    from torch import Tensor

    from headkv.evaluation.assembly import Assembly
    from headkv.evaluation.runner import Runner

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "inspect"
_CONTEXT = 6  # tokens decoded together: what a token looks like depends on those before it


def pack(positions: Sequence[Sequence[Tensor]], tokens: int) -> str:
    """Kept positions as text.

    Args:
        positions: `[layer][stored_head]`.
        tokens: of the prompt.

    Returns:
        Base64 of the zlib-compressed bits `[layer, stored_head, token]`; every head's bits begin
        at a new byte, lowest bit first.
    """
    import torch

    mask = torch.zeros(len(positions), len(positions[0]), (tokens + 7) // 8 * 8, dtype=torch.uint8)
    for layer, heads in enumerate(positions):
        for head, kept in enumerate(heads):
            mask[layer, head, kept] = 1
    weights = 2 ** torch.arange(8, dtype=torch.uint8)
    packed = (mask.view(*mask.shape[:2], -1, 8) * weights).sum(-1, dtype=torch.uint8)
    return base64.b64encode(zlib.compress(packed.numpy().tobytes(), 9)).decode()


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; joined they are the prompt, special tokens included.

    A character spread over several tokens stands with the last of them, the others are empty.
    """

    def text_of(start: int, end: int) -> str:
        return str(
            tokenizer.decode(
                ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    texts, start, shown = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = text_of(start, end)
        if text.endswith("\ufffd") and end < len(ids):  # the character goes on in the next token
            texts.append("")
            continue
        texts.append(text[len(shown) :])
        shown = text
        if end - start >= _CONTEXT:
            start, shown = end - 1, text_of(end - 1, end)
    return texts


def inspect(runner: Runner, example: Example, compress_on: str | None = None) -> dict[str, Any]:
    """The content of an example's inspection file: its tokens, and what each cell keeps of them.

    Args:
        runner: the runner of the run.
        example: one of its examples.
        compress_on: which cells; None: those of the first that the settings name.
    """
    from headkv.generation.prefill import kept_positions

    compress_on = compress_on or runner.settings.compress_on[0]
    encoded = runner.encoder.encode(example, compress_on)
    prefilled = runner.evaluator.prefill([encoded]).prefilled
    cells = []
    for index, cell in enumerate(runner.cells):
        if cell.compress_on != compress_on:
            continue
        positions = kept_positions(prefilled, cell.method)
        cells.append(
            {
                "method": cell.name,
                "kv_size": cell.method.kv_size,
                "granularity": str(cell.method.granularity),
                "run_key": runner.files.run_key(index, example),
                "kept_tokens": sum(len(kept) for heads in positions for kept in heads),
                "shape": [len(positions), len(positions[0]), len(encoded.context)],
                "kept": pack(positions, len(encoded.context)),
            }
        )
    return {
        "format": FORMAT,
        "benchmark": runner.benchmark.name,
        "model": runner.loaded.name,
        "task": example.task,
        "id": example.id,
        "answers": list(example.answers),
        "protocol": runner.settings.protocol.name,
        "compress_on": compress_on,
        "tokens": token_texts(runner.loaded.tokenizer, encoded.context),
        "written": run_record.now(),
        "cells": cells,
    }


def inspect_run(folder: Path, record: Mapping[str, Any], count: int, ids: list[str]) -> list[Path]:
    """Writes the inspection files of some examples of a run.

    Args:
        folder: of the run, `<output_dir>/<benchmark>/<model>`, absolute.
        record: its `run.json`.
        count: first examples of each task; without effect if `ids` are given.
        ids: of the examples.

    Returns:
        The files.

    Raises:
        UserError: the run cannot be set up again, or it has no such example.
    """
    assembly = _assembly(folder, record)
    runner, tasks = assembly.runner, assembly.tasks
    examples = runner.examples(tasks)
    if ids:
        for given in ids:
            choose("id", given, [example.id for example in examples])
        examples = [example for example in examples if example.id in ids]
    else:
        taken = {task: [e for e in examples if e.task == task][:count] for task in tasks}
        examples = [example for task in tasks for example in taken[task]]
    written = []
    for example, compress_on in product(examples, runner.settings.compress_on):
        path = folder / FOLDER / f"{_file_name(runner.settings, example, compress_on)}.json"
        content = inspect(runner, example, compress_on)
        write_json(path, content | {"cells": [*_others(path, content), *content["cells"]]})
        written.append(path)
    return written


def _assembly(folder: Path, record: Mapping[str, Any]) -> Assembly:
    """The parts of the run as `headkv.evaluation.job` put them together.

    A record is data and names no code: the benchmark is looked up by the name of its folder,
    scorers and allocators by theirs.
    """
    name = choose("benchmark", folder.parent.name.removesuffix("_sample"), names("benchmark"))
    try:
        config = without_targets(record["config"]) | {"output_dir": str(folder.parents[1])}
        for key in ("methods", "kv_size", "protocol", "seed", "fidelity"):
            config[key]
        target = load_group("benchmark", name)["_target_"]
        config["benchmark"] = {**config["benchmark"], "_target_": target}
        config["model"]["name"]
    except (KeyError, TypeError) as problem:
        raise UserError(
            f"the run in {folder} was recorded without a usable {problem}",
            allowed="runs of this version",
            do=f"run `{' '.join(record.get('command', []))}` again: finished rows are kept",
        ) from problem
    checked = check_run(config)
    from headkv.evaluation.assembly import assemble

    return assemble(*checked)


def _file_name(settings: Settings, example: Example, compress_on: str) -> str:
    """Another protocol or another part of the prompt is another list of tokens."""
    variant = (settings.protocol.name, compress_on)
    mark = "" if variant == ("corrected", "prompt") else f"@{'-'.join(variant)}"
    return re.sub(r"[^\w.@-]", "_", f"{example.task}{mark}-{example.id}")


def _others(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cells of an earlier inspection of the same tokens that this one does not replace."""
    earlier, wrong = read_if_sound(path, INSPECTION) if path.exists() else (None, "")
    if wrong:
        logger.warning("%s: replaced, for it could not be read: %s", path, wrong)
    if earlier is None:
        return []
    replaced = [_cell_key(cell) for cell in content["cells"]]
    same = earlier["tokens"] == content["tokens"]
    return [cell for cell in earlier["cells"] if same and _cell_key(cell) not in replaced]


def _cell_key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return cell["method"], cell["kv_size"], cell["granularity"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspects examples of a run.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code, 0.

    Raises:
        UserError: the run cannot be set up again, or it has no such example.
    """
    parser = Parser(
        prog="headkv inspect",
        description="Writes which tokens each head kept, for the report's inspector.",
    )
    parser.add_argument("folder", type=Path, help="of a run: <output_dir>/<benchmark>/<model>")
    parser.add_argument("--run", type=Path, help="another record than run.json, from runs/")
    parser.add_argument("--examples", type=int, default=1, help="first N of each task (default 1)")
    parser.add_argument("--id", nargs="+", default=[], help="these examples instead")
    given = parser.parse_args(arguments)
    record = given.run or given.folder / "run.json"
    folder = given.folder.absolute()
    for path in inspect_run(folder, _read(record), given.examples, given.id):
        print(f"wrote {path}")
    return 0


def _read(record: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(
        record,
        RUN_RECORD,
        "the record",
        allowed="the folder of a run, such as results/needle/smollm2_135m",
        do="run one of the run_*.py scripts first",
    )
    return found


if __name__ == "__main__":
    sys.exit(front_door(main))
