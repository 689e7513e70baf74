"""LongBench-v2 (arXiv 2412.15204): 503 hard questions with four choices, by difficulty and length.

The prompt is the one in lm-eval's wheel with a last line of ours, or the official one from a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from headkv.benchmarks.base import Wanted
from headkv.benchmarks.lm_eval_files import read_yaml
from headkv.benchmarks.row_files import RowFiles, copy_lines, filled, malformed, texts
from headkv.errors import UserError
from headkv.metrics import longbench2 as metrics
from headkv.records import Example

LEVELS, LENGTHS = ("easy", "hard"), ("short", "medium", "long")
TASKS = tuple(f"{level}_{length}" for level, length in product(LEVELS, LENGTHS))
FILE = "data.jsonl"
_CHOICES = ("choice_A", "choice_B", "choice_C", "choice_D")
# The metric looks for these words; lm-eval, which compares likelihoods, does not ask for them.
_FORM = 'Answer in this form and no other: "The correct answer is (letter)".'
_OFFICIAL = {"$DOC$": "{context}", "$Q$": "{question}"} | {f"$C_{x}$": f"{{{x}}}" for x in "ABCD"}


class LongBench2(RowFiles):
    """LongBench-v2; a task is a difficulty and a length, `easy_short` to `hard_long`.

    Args:
        task: a task, `easy`, `hard`, `short`, `medium`, `long` or `all`, one or several.
        prompts: the official `0shot.txt`; None: lm-eval's words.
        max_new_tokens: longest answer in tokens.
        data_dir: the user's data; has `longbench2/data.jsonl`, the hub's data.json one object a
            line.

    Raises:
        UserError: no such task, or its file or its prompt cannot be had.
    """

    name = "longbench2"
    files: ClassVar[Mapping[str, str]] = dict.fromkeys(TASKS, FILE)
    fields = ("_id", "difficulty", "length", "question", "answer", "context", *_CHOICES)
    named_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        part: tuple(task for task in TASKS if part in task.split("_"))
        for part in (*LEVELS, *LENGTHS)
    }

    def __init__(
        self,
        task: str | Sequence[str] | None,
        prompts: str | None = None,
        max_new_tokens: Annotated[int, Field(ge=1)] = 128,
        data_dir: Path | None = None,
    ) -> None:
        super().__init__(task, data_dir)
        self.template, self.max_new_tokens = _template(prompts), max_new_tokens

    @staticmethod
    def fetch(folder: Path, files: Sequence[str]) -> None:
        """Downloads the benchmark from the hub."""
        copy_lines("THUDM/LongBench-v2", "data.json", folder / FILE)

    def ask(
        self, task: str, number: int, row: Mapping[str, Any], where: str, wanted: Wanted
    ) -> Iterator[Example]:
        """See `RowFiles`."""
        id, level, length, question, answer, context, *choices = texts(row, self.fields, where)
        if level not in LEVELS or length not in LENGTHS or answer not in "ABCD":
            raise malformed(where, f"difficulty {level!r}, length {length!r}, answer {answer!r}")
        if task != f"{level}_{length}" or not wanted(task, id):
            return
        parts = dict(zip("ABCD", choices, strict=True))
        prompt, tail = filled(self.template, context, question=question.strip(), **parts)
        yield Example(
            id=id,
            task=task,
            prompt=prompt,
            answers=(f"The correct answer is ({answer})",),
            max_new_tokens=self.max_new_tokens,
            question_chars=len(tail),
            meta={"difficulty": level, "length": length, "right": answer},
        )

    def main_metric(self, task: str) -> str:
        """Returns the one metric there is."""
        return "accuracy"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns 100 if the right letter is named, else 0."""
        return {"accuracy": 100 * metrics.accuracy(prediction, example.meta["right"])}


def _template(prompts: str | None) -> str:
    """The prompt, with `{context}`, `{question}` and the choices as `{A}` to `{D}`."""
    if prompts is None:
        text = str(read_yaml("_longbench_common_yaml")["doc_to_text"])
        text = text.replace("{{context}}", "{context}").replace(
            "{{question.strip()}}", "{question}"
        )
        for place, letter in enumerate("ABCD"):
            text = text.replace(f"{{{{choices[{place}]}}}}", f"{{{letter}}}")
        return text.removesuffix("Answer:") + _FORM
    path = Path(prompts).expanduser()
    try:
        text = path.read_text(encoding="utf-8").replace("{", "{{").replace("}", "}}").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(
            f"cannot read benchmark.prompts={prompts}",
            allowed="LongBench-v2's 0shot.txt",
            do="give the file's path, or leave it out",
        ) from problem
    for mark, name in _OFFICIAL.items():
        text = text.replace(mark, name)
    if text.count("{context}") != 1:
        raise UserError(
            f"{prompts} does not say where the text goes", allowed="$DOC$ once", do="mend it"
        )
    return text
