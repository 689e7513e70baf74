"""SCBench (arXiv 2412.10319): several questions on one long context, in turn or each on its own.

`mode=multi_request`: every question is asked of the context alone. `mode=multi_turn`: a question
comes behind the earlier ones and their right answers, as in SCBench's own runs (whose option
`--disable_golden_context`, the model's own answers instead, is not offered), and all of these are
read into the cache that was compressed before the second of them was seen. Either way the
context is prefilled once for all questions.

The rows' own text is asked as it is; what is written around it is ours.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from headkv.benchmarks.base import Wanted
from headkv.benchmarks.row_files import RowFiles, copy_lines, malformed
from headkv.errors import choose
from headkv.metrics import infinitebench as metrics
from headkv.metrics import ruler
from headkv.records import Example

MODES = ("multi_turn", "multi_request")
NEW_TOKENS = {
    "kv": 150,
    "prefix_suffix": 150,
    "vt": 30,
    "repoqa": 1024,
    "qa_eng": 40,
    "qa_chn": 40,
    "choice_eng": 40,
    "many_shot": 10,
    "mf": 5,
    "summary": 200,
    "summary_with_needles": 800,
    "repoqa_and_kv": 1024,
}
"""Task -> most tokens of an answer, as in SCBench."""
_PARTS = {"passkey": 15, "kv": 80}  # of tasks that mix two
# Before the context and behind a question, in our words; `mf` puts what is looked for in front too.
_HEADS = {
    "kv": "Below is a JSON object. You will be asked for the values of keys in it.\n\n",
    "choice_eng": "Read the book and answer questions about it.\n\n",
    "qa_eng": "Read the book and answer questions about it in a few words.\n\n",
    "qa_chn": "阅读下面的书。用几个字回答问题。\n\n",
    "repoqa": "Find functions in the code below by their description and repeat them.\n\n",
}
_ASKED = {"qa_eng": ("Question: ", "\nAnswer:"), "qa_chn": ("问题: ", "\n答案: ")}


class SCBench(RowFiles):
    """SCBench, or the repository's sample of it where there are no data.

    Args:
        task: a task or `all`, one or several.
        mode: `multi_turn` or `multi_request`.
        data_dir: the user's data; has `scbench/scbench_<task>.jsonl`.

    Raises:
        UserError: no such task or mode, or a file cannot be had.
    """

    name = "scbench"
    files: ClassVar[Mapping[str, str]] = {task: f"scbench_{task}.jsonl" for task in NEW_TOKENS}
    fields = ("multi_turns",)

    def __init__(
        self,
        task: str | Sequence[str] | None,
        mode: Literal["multi_turn", "multi_request"] = "multi_turn",
        data_dir: Path | None = None,
    ) -> None:
        super().__init__(task, data_dir)
        self.mode = choose("mode", mode, MODES)
        if self.mode == "multi_request":
            self.name = self.name.replace("scbench", "scbench_requests")

    @staticmethod
    def fetch(folder: Path, files: Sequence[str]) -> None:
        """Downloads files of the hub."""
        for file in files:
            copy_lines("microsoft/SCBench", f"data/{file}", folder / file)

    def ask(
        self, task: str, number: int, row: Mapping[str, Any], where: str, wanted: Wanted
    ) -> Iterator[Example]:
        """See `RowFiles`."""
        context, turns = row.get("context", row.get("input")), row["multi_turns"]
        if not isinstance(context, str) or not isinstance(turns, list) or not turns:
            raise malformed(where, "no context, or no list of multi_turns")
        head, earlier, first = _HEADS.get(task, "") + context + "\n\n", "", ""
        for place, turn in enumerate(turns, 1):
            if not isinstance(turn, dict) or not isinstance(turn.get("input"), str):
                raise malformed(where, f"no input in turn {place}")
            if turn.get("answer") in (None, "", []):
                raise malformed(where, f"no answer in turn {place}")
            question, answers = _question(task, turn), _answers(task, turn, where)
            later = (earlier + question).removeprefix(first) if place > 1 else ""
            id = f"{number:03d}-{place}"
            if wanted(task, id):
                asked = earlier + question if self.mode == "multi_turn" else question
                yield Example(
                    id=id,
                    task=task,
                    prompt=head + asked,
                    answers=answers,
                    max_new_tokens=_PARTS.get(_kind(task, turn), NEW_TOKENS[task]),
                    question_chars=len(asked),
                    later_chars=len(later) if self.mode == "multi_turn" else None,
                    meta={"turn": place, "kind": _kind(task, turn)},
                )
            first = first or question
            earlier += f"{question} {answers[-1]}\n\n"

    def main_metric(self, task: str) -> str:
        """Returns the task's one metric."""
        return "score"

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns SCBench's score of the task, 0 to 100."""
        return {"score": 100 * _score(example.meta["kind"], prediction, example.answers)}


def _kind(task: str, turn: Mapping[str, Any]) -> str:
    """What a turn asks for; two tasks mix two kinds, and say which."""
    named = str(turn.get("task") or "").removeprefix("scbench_")
    return named if task in ("summary_with_needles", "repoqa_and_kv") and named else task


def _question(task: str, turn: Mapping[str, Any]) -> str:
    asked = str(turn["input"]).strip()
    if task == "choice_eng" and isinstance(turn.get("options"), list):
        options = zip("ABCD", turn["options"], strict=False)
        listed = "\n".join(f"{letter}. {text}" for letter, text in options)
        return f"Question: {asked}\n{listed}\n\nThe letter of the right answer is"
    before, behind = _ASKED.get(task, ("", ""))
    return before + asked + behind


def _answers(task: str, turn: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Reference answers; of a choice the option's text and, last, its letter."""
    given = turn["answer"]
    answers = tuple(map(str, given if isinstance(given, list) else [given]))
    if task != "choice_eng" or any(answer in ("A", "B", "C", "D") for answer in answers):
        return answers
    options = [str(option).strip() for option in turn.get("options") or []][:4]
    if answers[0].strip() not in options:
        raise malformed(where, "an answer that is none of its four options")
    return (*answers, "ABCD"[options.index(answers[0].strip())])


def _score(kind: str, prediction: str, answers: Sequence[str]) -> float:
    if kind in ("kv", "prefix_suffix"):
        return float(answers[0] in prediction)
    if kind == "vt":
        return ruler.all_found(prediction, answers)
    if kind == "passkey":
        return metrics.first_integer(prediction, answers[0])
    if kind == "mf":
        return metrics.first_number(prediction, answers[0])
    if kind in ("summary", "summary_with_needles"):
        return metrics.summary(prediction, answers)
    if kind == "qa_chn":
        return metrics.qa_f1_chinese(prediction, answers)
    if kind == "choice_eng":
        return metrics.choice(prediction, next(a for a in answers if a in ("A", "B", "C", "D")))
    if kind.startswith("repoqa"):
        return _function(prediction, answers[0])
    return metrics.dialogue(prediction, answers)  # qa_eng and many_shot: any answer is named


def _function(prediction: str, wanted: str) -> float:
    """Whether the code of the answer is the function, blank lines and blanks at ends apart.

    SCBench counts a function as found where BLEU puts it nearest to the right one of all functions
    of the repository, at 0.8; its rows do not hold the others, so this is stricter.
    """
    block = re.search(r"```(?:\w+\n)?(.*?)```", prediction, re.S)
    given = block[1] if block else prediction

    def lines(text: str) -> list[str]:
        return [line.strip() for line in text.split("\n") if line.strip()]

    return float(lines(given) == lines(wanted))
