"""From a composed config to measured rows: every prompt length under every cell and baseline."""

import gc
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from headkv.efficiency.rows import Row, device_name, measure
from headkv.efficiency.settings import Plan, check_efficiency
from headkv.efficiency.subjects import Subject, baseline, compressed
from headkv.efficiency.workload import Workload, random_workload, real_workload
from headkv.errors import UserError
from headkv.evaluation.early import check_model
from headkv.evaluation.grid import build_cells
from headkv.evaluation.settings import Settings
from headkv.models.loading import weights_id
from headkv.storage import run_record
from headkv.storage.keys import digest
from headkv.storage.result_file import ResultFile, cell_path

logger = logging.getLogger(__name__)

ROW_FORMAT = 1
"""Raised whenever rows written before can no longer stand beside new ones."""


def run_efficiency(config: dict[str, Any]) -> list[Path]:
    """Measures what is missing and writes rows and `run.json`.

    Args:
        config: the composed config.

    Returns:
        Every result file it was asked for.

    Raises:
        UserError: anything in the config that cannot be used, before anything is written; or
            memory ran out in some cells, after the others were measured.
    """
    settings, plan = check_efficiency(config)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    with tempfile.TemporaryDirectory() as folder:
        if plan.random_weights:
            dtype = str(settings.model.get("dtype") or "auto")
            workload = random_workload(
                plan.shape, dtype, plan.longest, settings.seed, Path(folder) / "scores.json"
            )
        else:
            spec = check_model(config)
            workload = real_workload(spec, settings.data_dir, plan.longest)
        cells = build_cells(settings, workload.spec, workload.model.config)
    subjects = [
        compressed(cell.name, cell.method, workload.model.config, cell.identity) for cell in cells
    ]
    if plan.dynamic_cache:
        subjects.insert(0, baseline(workload.model.config))
    return _run(settings, plan, workload, subjects)


def _run(
    settings: Settings, plan: Plan, workload: Workload, subjects: Sequence[Subject]
) -> list[Path]:
    folder = settings.output_dir / "efficiency" / workload.name
    weights, device = weights_id(workload.model), device_name(workload.model.device)
    machine = {
        "format": ROW_FORMAT,
        "weights": weights,
        "dtype": str(workload.model.dtype),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "plan": [plan.new_tokens, plan.warmup, plan.repeats],
    }
    record = run_record.describe(dict(settings.raw)) | {
        "weights": weights,
        "device": device,
        "subjects": [{"name": each.name, **each.identity} for each in subjects],
    }
    files = {
        (subject, length): _file(folder, machine, subject, workload, length)
        for length in plan.lengths
        for subject in subjects
    }
    keys = {length: digest([workload.prompt, length], 8) for length in plan.lengths}
    work = [
        (subject, length)
        for (subject, length), file in files.items()
        if plan.force or not file.has(str(length), keys[length])
    ]
    failed = []
    bar = tqdm(work, desc=f"efficiency {workload.name}", unit="cell")
    for subject, length in bar:
        bar.set_postfix_str(f"{subject.name} {subject.kv_size or 'full'} at {length}")
        file = files[subject, length]
        try:
            columns = measure(subject, workload, plan, length)
        except torch.OutOfMemoryError:
            failed.append(f"{subject.name} at {length}")
        else:
            # An efficiency row is no answer to an example, but is stored as one.
            file.append(Row(str(length), file.key(keys[length]), columns), again=plan.force)
        gc.collect()
    measured, present = len(work) - len(failed), len(files) - len(work)
    record |= {
        "finished": run_record.now(),
        "outcome": {"measured": measured, "present": present, "out_of_memory": failed},
    }
    run_record.save(folder, record)
    logger.info("%d rows written, %d were there: %s", measured, present, folder)
    if failed:
        raise UserError(
            f"no memory for {', '.join(failed)}",
            allowed="what fits on the device; the other rows are written",
            do="lower lengths= or leave out these methods",
        )
    return sorted({file.path for file in files.values()})


def _file(
    folder: Path, machine: dict[str, Any], subject: Subject, workload: Workload, length: int
) -> ResultFile:
    """The file of a cell and length; its key names all that a time depends on, but the code."""
    identity = {
        **machine,
        "prompt": digest(workload.ids(length)[0].tolist()),
        "subject": [subject.name, subject.attention, subject.identity],
    }
    path = cell_path(
        folder, subject.name, subject.kv_size, str(length), subject.protocol, subject.granularity
    )
    return ResultFile(path, digest(identity))
