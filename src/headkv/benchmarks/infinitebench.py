"""InfiniteBench (arXiv 2402.13718): twelve tasks on texts of 100k tokens and more.

The prompts are those in lm-eval's wheel; `math_calc`, which it lacks, is asked in words of ours.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from headkv.benchmarks.base import Wanted
from headkv.benchmarks.lm_eval_files import read_yaml, returned_text
from headkv.benchmarks.row_files import RowFiles, copy_lines, filled, malformed, texts
from headkv.metrics import infinitebench as metrics
from headkv.records import Example

LM_EVAL_NAMES = {
    "passkey": "passkey",
    "number_string": "number_string",
    "kv_retrieval": "kv_retrieval",
    "longbook_sum_eng": "longbook_sum_en",
    "longbook_choice_eng": "longbook_choice_en",
    "longbook_qa_eng": "longbook_qa_en",
    "longbook_qa_chn": "longbook_qa_chn",
    "longdialogue_qa_eng": "longdialogue_qa_en",
    "math_find": "math_find",
    "code_run": "code_run",
    "code_debug": "code_debug",
}
TASKS = (*LM_EVAL_NAMES, "math_calc")
# Tasks whose prompt stands in lm-eval's code and not in its yaml -> the function that returns it.
_FUNCTIONS = {
    "longbook_choice_eng": "doc_to_text_longbook_choice",
    "longdialogue_qa_eng": "doc_to_text_longdialogue",
    "math_find": "doc_to_text_math_find",
    "code_run": "doc_to_text_code_run",
    "code_debug": "doc_to_text_code_debug",
}
_MATH_CALC = (
    "Work out the expression below from left to right and write down the value after every single "
    "operation, as numbers with commas between them and nothing else.\n\n{context}\n\nValues:"
)
_CHOICES = ("longbook_choice_eng", "code_debug")
Score = Callable[[str, Sequence[str]], float]
SCORES: Mapping[str, Score] = {
    "passkey": lambda text, answers: metrics.first_integer(text, answers[0]),
    "number_string": lambda text, answers: metrics.first_integer(text, answers[0]),
    "kv_retrieval": lambda text, answers: metrics.key_value(text, answers[0]),
    "longbook_sum_eng": metrics.summary,
    "longbook_choice_eng": lambda text, answers: metrics.choice(text, answers[0]),
    "longbook_qa_eng": metrics.qa_f1,
    "longbook_qa_chn": metrics.qa_f1_chinese,
    "longdialogue_qa_eng": metrics.dialogue,
    "math_find": lambda text, answers: metrics.first_number(text, answers[0]),
    "code_run": lambda text, answers: metrics.last_integer(text, answers[0]),
    "code_debug": lambda text, answers: metrics.function_choice(text, answers[0], answers[1]),
    "math_calc": lambda text, answers: metrics.leading_integers(
        text, [int(number) for number in answers]
    ),
}
METRICS = {"longbook_sum_eng": "rouge_lsum", "longbook_qa_eng": "qa_f1", "longbook_qa_chn": "qa_f1"}
"""Names of the scores; `accuracy` where none is given."""


class InfiniteBench(RowFiles):
    """InfiniteBench, or the repository's sample of it where there are no data.

    Args:
        task: a task or `all`, one or several.
        data_dir: the user's data; has the benchmark's files in `infinitebench/`.

    Raises:
        UserError: no such task, or its file or its prompt cannot be had.
    """

    name = "infinitebench"
    files: ClassVar[Mapping[str, str]] = {task: f"{task}.jsonl" for task in TASKS}
    fields = ("id", "context", "input", "answer", "options")

    def __init__(self, task: str | Sequence[str] | None, data_dir: Path | None = None) -> None:
        super().__init__(task, data_dir)
        self.templates = {name: _template(name) for name in self.chosen}

    @staticmethod
    def fetch(folder: Path, files: Sequence[str]) -> None:
        """Downloads files of the hub."""
        for file in files:
            copy_lines("xinrongzhang2022/InfiniteBench", file, folder / file)

    def ask(
        self, task: str, number: int, row: Mapping[str, Any], where: str, wanted: Wanted
    ) -> Iterator[Example]:
        """See `RowFiles`."""
        id = str(row["id"])
        if not wanted(task, id):
            return
        context, asked = texts(row, ("context", "input"), where)
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        options = row["options"] or []
        if not answers or not isinstance(options, list):
            raise malformed(where, "no answer, or options that are no list")
        answers = [str(answer) for answer in answers]
        if task in _CHOICES:
            answers = _lettered(answers, [str(option) for option in options], where)
        template, max_new_tokens = self.templates[task]
        prompt, question = filled(template, context, **_parts(task, asked, options))
        yield Example(
            id=id,
            task=task,
            prompt=prompt,
            answers=tuple(answers),
            max_new_tokens=max_new_tokens,
            question_chars=len(question),
        )

    def main_metric(self, task: str) -> str:
        """Returns the task's one metric."""
        return METRICS.get(task, "accuracy")

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns the official score of the task, 0 to 100."""
        value = SCORES[example.task](prediction, example.answers)
        return {self.main_metric(example.task): 100 * value}


def _template(task: str) -> tuple[str, int]:
    """A task's prompt and the longest answer."""
    if task == "math_calc":
        return _MATH_CALC, 30_000
    content = read_yaml(f"infinitebench_{LM_EVAL_NAMES[task]}.yaml")
    longest = int(content["generation_kwargs"]["max_gen_toks"])
    if task in _FUNCTIONS:
        return returned_text("utils.py", _FUNCTIONS[task]), longest
    text = content.get("description", "") + content["doc_to_text"]
    if task == "longbook_sum_eng":  # the question stands in front: a context must have one behind
        text += "\n\nSummary:"
    return text.replace("{{context}}", "{context}").replace("{{input}}", "{input}"), longest


def _parts(task: str, asked: str, options: Sequence[str]) -> dict[str, str]:
    """What the names in a prompt stand for, besides the context."""
    parts = {"input": asked, "input_text": asked, "question": asked}
    parts |= {f"opt_{letter}": str(text) for letter, text in zip("abcd", options, strict=False)}
    if task == "code_run":
        call = re.search(r"(func_[0-9]+)\(-?[0-9]+\)", asked)
        parts |= {
            "func": call[1] if call else "the function",
            "func_call": call[0] if call else asked,
        }
    if task == "math_find":
        what = re.search(r"The .+ of", asked)
        parts["prefix"] = (
            f"What is {what[0][:-3].lower()} in the following list?" if what else asked
        )
    return parts


def _lettered(answers: list[str], options: Sequence[str], where: str) -> list[str]:
    """The right letter and what it stands for; the hub's rows leave the letter out."""
    text = answers[0].strip()
    stripped = [option.strip() for option in options]
    if len(answers) > 1 and answers[1] in ("A", "B", "C", "D"):
        return [answers[1], text]
    if text in stripped[:4]:
        return ["ABCD"[stripped.index(text)], text]
    if text in ("A", "B", "C", "D") and len(stripped) >= 4:
        return [text, stripped["ABCD".index(text)]]
    raise malformed(where, "an answer that is none of its four options")
