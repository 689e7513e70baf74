"""From task names to results and samples with proof; all that asks lm-eval's own evaluator."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from tabulate import tabulate
from yaml import YAMLError

from headkv.errors import UserError
from headkv.evaluation.grid import Cell
from headkv.lm_eval.model import HeadKVLM, build

# Noise of lm-eval's that says nothing to whoever runs it through us.
logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)

Samples = dict[str, list[str]]

# The many ways in which a task's yaml or its data can be unusable, offline among them.
UNUSABLE = (
    OSError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    YAMLError,
    TemplateError,
)


def evaluate(
    settings: Mapping[str, str],
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    batch_size: int = 1,
    max_length: int | None = None,
    chat_template: bool = False,
    seed: int = 0,
) -> tuple[Path, dict[str, Any], Samples, str]:
    """Runs tasks on one model under one method.

    Args:
        settings: what `--model_args` says, see `headkv.lm_eval.model.build`.
        tasks: names that lm-eval knows, groups and tags among them.
        include_path: a folder with further task files.
        num_fewshot: worked examples in the context; None: as the task says.
        limit: the first so many documents of a task; None: all.
        batch_size: prompts generated from together.
        max_length: tokens of context and answer at most; None: the model's own length.
        chat_template: whether contexts become turns of the tokenizer's chat template.
        seed: of worked examples and sampling.

    Returns:
        `<model>/<method>/<kv_size or full>`; lm-eval's results; for each task the lines of its
        samples, each with `headkv`, one proof a request; and a table.

    Raises:
        UserError: a task is unknown, cannot be loaded or has nothing to compress.
    """
    manager = Tasks(include_path, tasks)
    loaded, cell = build(dict(settings))
    model = HeadKVLM(loaded, cell, batch_size, max_length)
    try:
        found: Any = simple_evaluate(
            model,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            bootstrap_iters=1000,
        )
    except TemplateError as problem:  # a field that the task's documents do not have
        raise _unusable(tasks, problem) from problem
    samples = {task: list(_lines(each, model)) for task, each in found.pop("samples").items()}
    size = cell.method.kv_size
    folder = Path(loaded.name) / cell.name / str("full" if size is None else size)
    results = {"method": cell.identity, **json.loads(_json(found))}
    return folder, results, samples, _table(found["results"], loaded.name, cell)


class Tasks(TaskManager):
    """lm-eval's index of tasks, which loads what it is asked for once.

    Args:
        include_path: a folder with further task files.
        names: tasks to load, groups and tags among them.

    Raises:
        UserError: a task is unknown, cannot be loaded or has nothing to compress.
    """

    def __init__(self, include_path: str | None, names: Sequence[str]) -> None:
        if include_path is not None and not Path(include_path).is_dir():
            raise UserError(
                f"no folder {include_path}", allowed="a folder", do="set --include_path to one"
            )
        super().__init__(include_path=include_path)
        unknown = [name for name in names if not self.match_tasks([name])]
        if unknown or not names:
            raise UserError(
                f"lm-eval has no task {', '.join(unknown) or '(none named)'}",
                allowed="what `lm-eval ls tasks` lists, or files of --include_path",
                do="change --tasks",
            )
        try:
            self._held: Any = super().load(list(names))
        except UNUSABLE as problem:
            raise _unusable(names, problem) from problem
        for name, task in self._held["tasks"].items():
            if task.OUTPUT_TYPE == "loglikelihood_rolling":
                raise UserError(
                    f"task {name} scores whole texts, which have no context to compress",
                    allowed="tasks that generate, or score a continuation of a context",
                    do="measure perplexity under a bounded cache with `headkv stream`",
                )

    def load(self, task_list: Any) -> Any:
        """What was loaded already, whatever is asked for."""
        return self._held


def _unusable(tasks: Sequence[str], problem: Exception) -> UserError:
    """A task's file or data that cannot be used."""
    words = str(problem).splitlines() or [type(problem).__name__]
    return UserError(
        f"{type(problem).__name__} in the tasks {', '.join(tasks)}: {words[0]}",
        allowed="tasks whose files are whole and whose data is at hand",
        do="mend the task's yaml, or fetch its data first",
    )


def _lines(samples: Sequence[dict[str, Any]], model: HeadKVLM) -> Iterator[str]:
    """Samples as lines of JSON, each with the proofs of its requests."""
    for sample in samples:
        proofs = [model.proof(request) for request in sample["arguments"]]
        yield _json({**sample, "headkv": proofs}) + "\n"


def _json(content: Any) -> str:
    return json.dumps(content, default=handle_non_serializable, ensure_ascii=False)


def _table(results: Mapping[str, Mapping[str, Any]], model: str, cell: Cell) -> str:
    """Every metric of every task with its standard error, as Markdown."""
    lines = []
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = values.get(f"{metric}_stderr,{filtered}")
                lines.append([model, cell.name, cell.method.kv_size, task, metric, value, error])
    headers = ["model", "method", "KV size", "task", "metric", "value", "standard error"]
    return tabulate(lines, headers, tablefmt="github", floatfmt=".4f", missingval="full")
