"""A model's head scores on one page each: who leads, how stable, and what budgets follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from headkv.calibration.score_files import model_config, score_files
from headkv.errors import UserError
from headkv.methods import build_method
from headkv.models.spec import load_spec
from headkv.records import text_config
from headkv.report.figures.axes import save_figure
from headkv.report.figures.style import PLOT_STYLE
from headkv.report.heads.figures import (
    budget_figure,
    distribution_figure,
    heatmap_figure,
    stability_figure,
)
from headkv.report.heads.masking import write_masking
from headkv.report.heads.scores import ScoreFile, read_score_file
from headkv.report.heads.tables import stabilities, write_head_tables


@dataclass(frozen=True)
class Budgets:
    """What the budget figure shows.

    Attributes:
        kv_sizes: mean tokens a stored head may keep; a panel each.
        beta: HeadKV's parameter.
        prompt_tokens: tokens of the prompt that is compressed.
        granularity: `kv_head` or `query_head`.
    """

    kv_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    beta: float = 1.2
    prompt_tokens: int = 8192
    granularity: str = "kv_head"


def write_report(
    model: str,
    files: Sequence[Path],
    output_dir: Path,
    shown: Budgets,
    kv_heads: int | None = None,
) -> list[Path]:
    """Writes tables and figures to `<output_dir>/heads/<model>/`.

    Args:
        model: a yaml's name, a folder or a hub id.
        files: score files; the model's own where none are named.
        output_dir: the results folder; rows of the masking experiment in it are shown too.
        shown: what the budget figure shows.
        kv_heads: number of KV heads a layer; None: read from the model's config.

    Returns:
        The files written.

    Raises:
        UserError: no score files, or unusable ones.
    """
    spec = load_spec(model)
    paths = list(files) or list(score_files(spec).values())
    if not paths:
        raise UserError(
            f"model {spec.name} has no head scores",
            allowed="one score file or more",
            do=f"make heads MODEL={model}, or name the files",
        )
    read = [read_score_file(path, spec.name) for path in paths]
    stored = kv_heads
    if stored is None and shown.granularity == "kv_head":
        try:
            stored = int(text_config(model_config(model)).num_key_value_heads)
        except UserError as problem:
            raise UserError(
                f"the KV heads of {spec.name} are not known: {problem.what}",
                allowed="a model at hand, or its number of KV heads a layer",
                do="give --kv-heads N or --granularity query_head",
            ) from problem
    folder = output_dir / "heads" / spec.name
    written = write_head_tables(read, spec.name, folder)
    with matplotlib.rc_context(PLOT_STYLE):
        for file in read:
            title = f"{spec.name}, {file.name} scores"
            written += save_figure(heatmap_figure(file, title), folder, f"{file.name}_heatmap")
            figure = budget_figure(_budgets(file, shown, stored), _budget_title(title, shown))
            written += save_figure(figure, folder, f"{file.name}_budgets")
        figure = distribution_figure(read, f"{spec.name}: how head scores are spread")
        written += save_figure(figure, folder, "distribution")
        figure = stability_figure(
            stabilities(read), read, f"{spec.name}: head scores of two halves"
        )
        written += save_figure(figure, folder, "stability")
    if list(output_dir.glob(f"masking/needle/{spec.name}/*/full/*.jsonl")):
        written += write_masking(output_dir / "masking", spec.name, folder)
    return written


def _budgets(file: ScoreFile, shown: Budgets, kv_heads: int | None) -> dict[int, NDArray[np.int64]]:
    """HeadKV's budgets by KV size, `[layer, stored_head]`."""
    layers, heads = file.mean.shape
    found = {}
    for size in shown.kv_sizes:
        method = build_method(
            "headkv_r",
            size,
            head_scores=torch.from_numpy(file.mean),
            beta=shown.beta,
            granularity=shown.granularity,
        )
        table = method.budgets(layers, heads, kv_heads or heads, shown.prompt_tokens)
        found[size] = table.numpy()
    return found


def _budget_title(title: str, shown: Budgets) -> str:
    return (
        f"HeadKV's budgets by {title}: beta {shown.beta:g}, a prompt of "
        f"{shown.prompt_tokens:,} tokens, per {shown.granularity.replace('_', ' ')}"
    )
