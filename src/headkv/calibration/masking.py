"""The masking experiment: needle accuracy with a kind's best heads switched off.

If scores find the heads that retrieve, switching those off costs answers, and as many random heads
cost none (arXiv 2404.15574, 2508.02401). The cache is full; only the heads differ.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from torch import Tensor, nn

from headkv.calibration.layer_errors import output_projections
from headkv.calibration.score_files import score_files
from headkv.calibration.settings import HeadSettings, head_settings, needle
from headkv.config import load_group
from headkv.errors import UserError, choose
from headkv.evaluation.assembly import assemble
from headkv.evaluation.cell_files import Run
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Runner
from headkv.evaluation.settings import Settings
from headkv.models.spec import SCORE_KINDS, ModelSpec
from headkv.records import text_config
from headkv.report.heads.masking import write_masking
from headkv.storage import run_record
from headkv.storage.head_scores import best_heads, load_head_scores

Heads = list[tuple[int, int]]


@contextmanager
def switched_off(model: Any, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Switches heads off while the block runs: they add nothing to the residual stream.

    A head is switched off where its output enters the layer's output projection: a forward
    pre-hook sets its columns to zero, in the prompt and in the answer alike.

    Args:
        model: a decoder whose attention modules have an output projection of a known name.
        heads: (layer, query head) of each head to switch off.

    Raises:
        UserError: the model's attention is built otherwise, or has no such head.
    """
    config = text_config(model.config)
    count = int(config.num_attention_heads)
    found = output_projections(model, int(config.num_hidden_layers))
    for layer, head in heads:
        if not 0 <= layer < len(found) or not 0 <= head < count:
            raise UserError(
                f"{type(model).__name__} has no head {layer}-{head} that can be switched off",
                allowed=f"{count} heads in each of {len(found)} layers",
                do="use scores of this model, or another model",
            )
    hooks = []
    try:
        for layer in sorted({layer for layer, _ in heads}):
            off = [head for at, head in heads if at == layer]
            hooks.append(found[layer].register_forward_pre_hook(partial(_silence, count, off)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _silence(
    count: int, off: list[int], module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Zeroes the outputs of some of `count` heads, `[..., head * value_dim]`."""
    output = inputs[0].unflatten(-1, (count, -1)).clone()
    output[..., off, :] = 0
    return (output.flatten(-2), *inputs[1:])


def run_masking(config: dict[str, Any]) -> list[Path]:
    """Answers what is missing of the needle benchmark under every mask, then table and figure.

    Rows go to `<output_dir>/masking/needle/<model>/<heads>-<how many>/full/<task>.jsonl`.

    Args:
        config: the composed config of `conf/heads.yaml`.

    Returns:
        Tables and figures.

    Raises:
        UserError: a setting that cannot be used, or no score files.
    """
    settings = Settings.parse(
        {
            **{key: config[key] for key in ("model", "limit", "seed", "data_dir")},
            "methods": {"fullkv": load_group("method", "fullkv")},
            "kv_size": 1,  # the full cache has none
            "protocol": load_group("protocol", "corrected"),
            "output_dir": f"{config['output_dir']}/masking",
            "fidelity": False,  # of the full cache to itself
        }
    )
    given = head_settings(config)[0]
    benchmark = needle(given)
    record = run_record.describe(config)
    assembly = assemble(settings, benchmark)
    spec, loaded, full = assembly.spec, assembly.loaded, assembly.cells[0]
    masks = _masks(given, _best(given.masking.kinds, spec, loaded.model))
    for name, heads in masks.items():
        cell = Cell(name, full.method, {**full.identity, "switched_off": sorted(heads)})
        runner = Runner(Run(settings, benchmark, loaded, [cell]))
        with switched_off(loaded.model, heads):
            runner.run(benchmark.tasks)
    record |= {"weights": loaded.weights, "masks": masks, "finished": run_record.now()}
    run_record.save(runner.folder, record)
    reports = settings.output_dir.parent / "heads" / spec.name
    return write_masking(settings.output_dir, spec.name, reports)


def _best(asked: Sequence[str] | None, spec: ModelSpec, model: Any) -> dict[str, Heads]:
    """All heads, best first, by each kind asked for."""
    there = score_files(spec)
    kinds = list(there) if asked is None else [choose("kind", k, SCORE_KINDS) for k in asked]
    missing = [kind for kind in kinds if kind not in there]
    if missing or not kinds:
        raise UserError(
            f"model {spec.name} has no {' and no '.join(missing or SCORE_KINDS)} head scores",
            allowed=", ".join(there) or "kinds with a score file of this model",
            do=f"make heads MODEL={spec.name}, or set masking.kinds=",
        )
    return {k: best_heads(load_head_scores(there[k], model.config, kind=k).numpy()) for k in kinds}


def _masks(given: HeadSettings, best: dict[str, Heads]) -> dict[str, Heads]:
    """Which heads are off under each name: a kind's best, or random ones that are no kind's best.

    Random heads are nested: a draw's 20 contain its 10.
    """
    counts, draws = sorted(set(given.masking.heads)), given.masking.draws
    every = next(iter(best.values()))
    taken = {head for heads in best.values() for head in heads[: max(counts, default=0)]}
    pool = sorted(set(every) - taken)
    if not counts or counts[-1] > len(pool):
        raise UserError(
            f"masking.heads={list(given.masking.heads)}",
            allowed=f"0 up to {len(every)} less each kind's best",
            do="change masking.heads=",
        )
    masks: dict[str, Heads] = {"none-0": []} if 0 in counts else {}
    for count in counts:
        if count:
            masks |= {f"{kind}-{count}": heads[:count] for kind, heads in best.items()}
    for draw in range(draws):
        drawn = Random(f"{given.seed}/{draw}").sample(pool, counts[-1])
        masks |= {f"random{draw}-{count}": drawn[:count] for count in counts if count}
    return masks
