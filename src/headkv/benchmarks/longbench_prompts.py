"""LongBench's official prompts (arXiv 2308.14508) and how many tokens each task may answer with.

None is written here. They are read from the yaml files in the wheel of lm-eval, which is fetched
but not installed, or from the official `dataset2prompt.json` and `dataset2maxlen.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from headkv.benchmarks.lm_eval_files import LM_EVAL, read_yaml
from headkv.downloads.wheels import fetch_asset
from headkv.errors import UserError
from headkv.storage.reading import parse

T = TypeVar("T")

_OTHERS = ("_", "babilong_", "infinitebench_")  # other benchmarks' files, and what tasks share
# What the official prompts have and lm-eval's have lost, compared one by one.
_LOST: dict[str, tuple[str, str]] = {
    "triviaqa": ("{context}\n{input}", "{context}\n\n{input}"),
    "samsum": ("{context}\n{input}", "{context}\n\n{input}"),
    "passage_count": ("answer is:", "answer is: "),
    "passage_retrieval_en": ("answer is:", "answer is: "),
    "lcc": ("line of code:", "line of code:\n"),
    "repobench-p": ("line of code:", "line of code:\n"),
}


@dataclass(frozen=True)
class Prompt:
    """A task's prompt.

    Attributes:
        text: with `{context}` once, and `{input}` where the task has questions.
        max_new_tokens: the longest answer.
    """

    text: str
    max_new_tokens: int

    def fill(self, row: Mapping[str, Any]) -> str:
        """Returns the prompt of a row, before truncation and chat template."""
        before, _, after = self._parts(row)
        return before + str(row["context"]) + after

    def question_chars(self, row: Mapping[str, Any]) -> int:
        """Returns how many characters of the filled prompt stand behind the context."""
        return len(self._parts(row)[2])

    def _parts(self, row: Mapping[str, Any]) -> tuple[str, str, str]:
        # Split first: a context may well contain the words `{input}`.
        before, mark, after = self.text.partition("{context}")
        asked = str(row["input"])
        return before.replace("{input}", asked), mark, after.replace("{input}", asked)


def longbench_prompt(task: str, row: Mapping[str, Any]) -> str:
    """Returns the official prompt of a row, before truncation and chat template.

    Args:
        task: one of the 21, or of LongBench-E's with their `_e`.
        row: of the benchmark; needs `input` and `context`.

    Raises:
        UserError: no such task, or the prompts cannot be had.
    """
    row = row if isinstance(row, Mapping) else {}
    missing = [key for key in ("input", "context") if not isinstance(row.get(key), str)]
    if missing:
        raise UserError(
            f"a row of {task} without a text for {' and '.join(missing)}",
            allowed="texts for input and context",
            do="give a row of LongBench",
        )
    return load_prompt(task).fill(row)


@cache
def load_prompt(task: str, folder: Path | None = None) -> Prompt:
    """Loads a task's prompt.

    Args:
        task: as `longbench_prompt`.
        folder: holds the official `dataset2prompt.json` and `dataset2maxlen.json`; None: from
            lm-eval's wheel.

    Raises:
        UserError: no such task there, or the files cannot be had.
    """
    name = task.removesuffix("_e")
    prompt = _lm_eval(name) if folder is None else _official(name, folder)
    if prompt.text.count("{context}") != 1:
        raise UserError(
            f"the prompt of {task} does not say where the context goes",
            allowed="prompts with {context} once, {input} as often as needed",
            do="mend dataset2prompt.json",
        )
    return prompt


def _lm_eval(task: str) -> Prompt:
    """A task's prompt out of lm-eval's wheel, mended where it lost something."""
    try:
        folder = fetch_asset(LM_EVAL)
    except UserError as problem:
        raise UserError(
            problem.what,
            allowed=problem.allowed,
            do="connect to a package index, or set benchmark.prompts= to a folder with LongBench's "
            "own dataset2prompt.json and dataset2maxlen.json",
        ) from problem
    path = folder / f"{task}.yaml"
    if task.startswith(_OTHERS) or not path.is_file():
        names = sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.endswith("_e"))
        tasks = [name for name in names if not name.startswith(_OTHERS)]
        raise UserError(f"no LongBench task {task!r}", allowed=", ".join(tasks), do="set task=")
    content = read_yaml(path.name)
    text = content["doc_to_text"].replace("{{context}}", "{context}")
    text = text.replace("{{question}}", "{input}")  # what lm-eval calls the row's `input`
    return Prompt(
        text.replace(*_LOST[task]) if task in _LOST else text,
        content["generation_kwargs"]["max_gen_toks"],
    )


def _official(task: str, folder: Path) -> Prompt:
    """A task's prompt out of LongBench's own files."""
    return Prompt(
        _entry(folder / "dataset2prompt.json", task, str),
        _entry(folder / "dataset2maxlen.json", task, int),
    )


def _entry(path: Path, task: str, kind: type[T]) -> T:
    """A task's entry in one of LongBench's own files."""
    try:
        value = parse(path.read_bytes())[task]
    except (OSError, ValueError, KeyError, TypeError):
        value = None
    usable = type(value) is kind and (not isinstance(value, int) or value >= 1)
    if not usable:
        raise UserError(
            f"{path} has no usable entry for {task}",
            allowed="a folder with LongBench's dataset2prompt.json and dataset2maxlen.json",
            do="set benchmark.prompts= to it, or leave it out",
        )
    assert isinstance(value, kind)
    return value
