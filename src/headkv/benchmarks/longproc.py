"""LongProc (arXiv 2501.05414): little to read, much to write, and every line of it checked.

Answers of 500 to 8,000 tokens: what compression while decoding is tested on. The prompts come with
the data, in a yaml file a task.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field

from headkv.benchmarks.base import Wanted
from headkv.benchmarks.row_files import RowFiles, malformed
from headkv.downloads.cached import first_line
from headkv.errors import UserError
from headkv.metrics import longproc as metrics
from headkv.records import Example
from headkv.storage.reading import parse

KINDS: Mapping[str, tuple[str, ...]] = {
    "countdown": ("nums", "target", "demonstration"),
    "path_traversal": ("context_nl", "question_repr", "answer_nl"),
    "tom_tracking": ("story", "question", "solution"),
}
"""Task -> what its rows have."""
NEW_TOKENS = {"0.5k": 1024, "2k": 3072, "8k": 9216}
"""Length of the answer, as tasks are named by it -> most tokens."""
_EXAMPLES = 2  # worked examples of the countdown, the last rows of its file


class LongProc(RowFiles):
    """Three of LongProc's tasks: those that are scored without running code.

    Args:
        task: a task at a length of the answer (`countdown_0.5k`), all lengths of a task, all tasks
            of a length, or `all`, which takes what is there.
        data_dir: the user's data; has `<task>_<length>.json` and `<task>_prompts.yaml` in
            `longproc/`.
        max_new_tokens: longest answer in tokens; None: what the task's length needs.

    Raises:
        UserError: no such task, or its file or its prompt cannot be had.
    """

    name = "longproc"
    truncates = False
    files: ClassVar[Mapping[str, str]] = {
        f"{kind}_{length}": f"{kind}_{length}.json" for kind in KINDS for length in NEW_TOKENS
    }
    fields = ()
    named_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{kind: tuple(f"{kind}_{length}" for length in NEW_TOKENS) for kind in KINDS},
        **{length: tuple(f"{kind}_{length}" for kind in KINDS) for length in NEW_TOKENS},
    }

    def __init__(
        self,
        task: str | Sequence[str] | None,
        max_new_tokens: Annotated[int, Field(ge=1)] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        super().__init__(task, data_dir)
        self.max_new_tokens = max_new_tokens

    def rows(self, task: str, path: Path) -> Iterator[dict[str, Any]]:
        """Yields the rows of a file, which is one JSON list."""
        yield from _read(path)

    def ask(
        self, task: str, number: int, row: Mapping[str, Any], where: str, wanted: Wanted
    ) -> Iterator[Example]:
        """See `RowFiles`."""
        kind, _, length = task.rpartition("_")
        _check(kind, row, where.replace(" line ", " row "))
        if not wanted(task, f"{number:03d}"):
            return
        path = self.source.folder / self.files[task]
        prompt, question, answer = self._asked(kind, row, path)
        yield Example(
            id=f"{number:03d}",
            task=task,
            prompt=prompt,
            answers=(answer,),
            max_new_tokens=self.max_new_tokens or NEW_TOKENS[length],
            question_chars=len(question),
            meta={"length": length}
            | ({"nums": row["nums"], "target": row["target"]} if kind == "countdown" else {}),
        )

    def _asked(self, kind: str, row: Mapping[str, Any], path: Path) -> tuple[str, str, str]:
        """Prompt, question (the part that is the row's own) and reference answer."""
        template = _prompt(path.parent / f"{kind}_prompts.yaml")
        if kind == "countdown":
            worked = [each for each in _read(path) if each is not row][-_EXAMPLES:]
            shown = "\n\n".join(
                f"Numbers: {each['nums']}\nTarget: {each['target']}\n\n{each['demonstration']}"
                for each in worked
            )
            parts = {"demonstration": shown, "nums": row["nums"], "target": row["target"]}
            answer, first = row["demonstration"], "{nums}"
        elif kind == "path_traversal":
            source, target = row["question_repr"]
            parts = {"city_context": row["context_nl"], "src_city": source, "dst_city": target}
            answer, first = f"<Route>\n{row['answer_nl']}\n</Route>", "{src_city}"
        else:
            parts = {"story": row["story"], "question": row["question"]}
            answer, first = row["solution"], "{question}"
        try:
            prompt = template.format(**parts)
            cut = template.rindex(first)
            cut = template.rindex("\n", 0, cut) + 1
            question = template[cut:].format(**parts)
        except (KeyError, IndexError, ValueError) as problem:
            raise UserError(
                f"{path.parent / f'{kind}_prompts.yaml'} cannot be used ({first_line(problem)})",
                allowed=f"LongProc's prompt with {', '.join(f'{{{name}}}' for name in parts)}",
                do="take the file of LongProc's repository",
            ) from problem
        return prompt, question, answer

    def main_metric(self, task: str) -> str:
        """Returns `accuracy`: all lines right."""
        return "accuracy"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns accuracy, partial accuracy and extraction rate, 0 to 100."""
        kind, answer = example.task.rpartition("_")[0], example.answers[0]
        if kind == "countdown":
            meta = example.meta
            found = metrics.countdown(prediction, meta["nums"], meta["target"], answer)
        elif kind == "path_traversal":
            found = metrics.path_traversal(prediction, metrics.tagged(answer, "Route") or "")
        else:
            found = metrics.tom_tracking(prediction, answer)
        return {name: 100 * value for name, value in found.items()}


def checked_rows(path: Path) -> Sequence[dict[str, Any]]:
    """Returns the rows of a file `<task>_<length>.json`, whose prompt lies beside it.

    Raises:
        UserError: the file or its prompt cannot be used, or a row lacks a field.
    """
    kind = path.stem.rpartition("_")[0]
    _prompt(path.parent / f"{kind}_prompts.yaml")
    rows = _read(path)
    for number, row in enumerate(rows, 1):
        _check(kind, row, f"{path} row {number}")
    return rows


def _check(kind: str, row: Mapping[str, Any], where: str) -> None:
    if missing := [field for field in KINDS[kind] if field not in row]:
        raise malformed(where, f"no {', '.join(missing)}")


@cache
def _read(path: Path) -> Sequence[dict[str, Any]]:
    try:
        content = parse(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise UserError(
            f"cannot read {path}: {first_line(problem)}",
            allowed="a JSON list of rows",
            do="take the file of LongProc's repository",
        ) from problem
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise malformed(str(path), "no list of rows")
    return content


@cache
def _prompt(path: Path) -> str:
    try:
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["USER_PROMPT"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as problem:
        raise UserError(
            f"no USER_PROMPT in {path}",
            allowed="the task's prompts.yaml of LongProc, under this name",
            do="put it beside the data",
        ) from problem
