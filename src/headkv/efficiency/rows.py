"""The measurements of one cell at one prompt length, as a line of a result file."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch

from headkv.efficiency.measure import spread
from headkv.efficiency.settings import Plan
from headkv.efficiency.subjects import Subject, Trial, peak_memory
from headkv.efficiency.workload import Workload


@dataclass(frozen=True)
class Row:
    """One line of a result file.

    Attributes:
        id: the prompt's length in tokens.
        run_key: hash of everything that changes the measurement.
        columns: the measurements, from `measure`.
    """

    id: str
    run_key: str
    columns: Mapping[str, Any]

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON object of the result file."""
        return {"id": self.id, **self.columns, "run_key": self.run_key}


def measure(subject: Subject, workload: Workload, plan: Plan, length: int) -> dict[str, Any]:
    """Measures one subject at one prompt length as often as the plan says.

    Args:
        subject: what holds the keys and values.
        workload: model and prompts.
        plan: says how often, and for how many new tokens.
        length: tokens of the prompt.

    Returns:
        Columns of a row. Times are seconds, each as median, least and greatest of the repeats:
        `first_token` is the prefill with its compression, `compress` the part of it that
        compresses, `token` the median one-token step of a run, `total` the time to as many new
        tokens as its key says. `cache_bytes` is what the prompt's kept entries occupy, `held_bytes`
        all that the cache holds, right after prefill and after `new_tokens` tokens;
        `peak_bytes` is the most that tensors took at once, the weights not counted.
    """
    model, ids = workload.model, workload.ids(length)
    for _ in range(plan.warmup):
        Trial(subject, model, ids).decode(2)
    peak = peak_memory(subject, model, ids)
    first, compress, share, step = [], [], [], []
    total: dict[int, list[float]] = {count: [] for count in plan.new_tokens}
    for _ in range(plan.repeats):
        trial = Trial(subject, model, ids)
        times = trial.decode(plan.steps)
        reached = list(accumulate(times, initial=trial.first))
        first.append(trial.first)
        compress.append(trial.compress)
        share.append(trial.compress / trial.first)
        step.append(median(times))
        for count, seconds in total.items():
            seconds.append(reached[count - 1])
        sizes, held = trial.sizes, trial.held
        del trial
    return {
        "prompt_tokens": length,
        "new_tokens": plan.steps + 1,
        "kv_size": subject.kv_size,
        "kept_tokens": sizes["entries"],
        "cache_bytes": sizes["entry_bytes"],
        "held_bytes": {"after_prefill": sizes["held"], "at_end": held},
        "peak_bytes": peak.bytes,
        "seconds": {
            "first_token": spread(first),
            "compress": spread(compress),
            "token": spread(step),
            "total": {str(count): spread(seconds) for count, seconds in total.items()},
        },
        "compress_share": spread(share),
        "protocol": subject.protocol,
        "granularity": subject.granularity,
        "weights": workload.weights,
        "head_scores": workload.head_scores if subject.reads_head_scores else None,
        "prompt": workload.prompt,
        "attention": subject.attention,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "peak_measured_by": peak.instrument,
        "warmup": plan.warmup,
        "repeats": plan.repeats,
    }


def device_name(device: torch.device) -> str:
    """Returns the GPU's or the processor's name, as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listing = Path("/proc/cpuinfo")
    for line in listing.read_text().splitlines() if listing.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
