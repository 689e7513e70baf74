"""What a benchmark is: examples, their scores from 0 to 100, and which score is the main one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from headkv.config import buildable
from headkv.errors import UserError
from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Wanted = Callable[[str, str], bool]
"""Says of a task and an id whether the example is to be built; asked once of each, in order."""
ROUNDING = 1e-6
"""By how much sums of shares may exceed 100."""


@buildable
class Benchmark(ABC):
    """What a run needs of a benchmark.

    Attributes:
        name: names the folder of the results.
        tasks: names of its tasks, one result file each.
        sets: names for several tasks at once, besides `all`.
        truncates: whether a prompt longer than the model takes is cut in its middle, as LongBench
            does; else it is refused, for what is cut out may be what is asked for.
        longest: tokens of the longest prompt with its answer, where texts are built to a length
            that is checked before anything runs; None: of any length.
    """

    name: str
    tasks: tuple[str, ...]
    sets: Mapping[str, tuple[str, ...]] = {}
    truncates: bool = True
    longest: int | None = None

    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """Returns all examples, the same at every call. This or `stream` has to be written.

        Args:
            tokenizer: the model's, for benchmarks that build texts of a length in tokens.

        Returns:
            Examples in the order in which `limit` takes the first few of each task.
        """
        return list(self.stream(tokenizer))

    def stream(
        self, tokenizer: "PreTrainedTokenizerBase", wanted: Wanted = lambda task, id: True
    ) -> Iterator[Example]:
        """Yields the wanted examples one by one, so that no more than one has to be in memory.

        Benchmarks whose examples are large or slow to build write this instead of `examples`.

        Args:
            tokenizer: the model's.
            wanted: asked before an example is built.
        """
        for example in self.examples(tokenizer):
            if wanted(example.task, example.id):
                yield example

    @abstractmethod
    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Returns every score of one answer, by name.

        Scores are percentages: 0 is the worst answer and 100 the best. A share of 1 must be
        returned as 100; one that is returned as 1.0 would read as one per cent in every table, so
        a run whose benchmark gives its own reference answer 1 or less is refused (`check_scale`).

        Args:
            example: what was asked.
            prediction: the model's answer, without special tokens.

        Returns:
            Name -> score from 0 to 100; the task's `main_metric` is among the names.
        """

    @abstractmethod
    def main_metric(self, task: str) -> str:
        """Returns which of the scores is the `score` of an example of this task."""

    def instruction(self, task: str) -> str:
        """What the task asks for, whatever the question: the text of `probe=task`."""
        return "Answer a question about the text above."

    def uses_chat_template(self, task: str) -> bool:
        """Returns whether the task's prompts are a user's turn; LongBench has some that are not."""
        return True


def check_scores(scores: Mapping[str, float], main_metric: str, benchmark: str) -> None:
    """Checks what a benchmark's `score` returned, before it is written.

    Args:
        scores: name -> score.
        main_metric: the name that must be among them.
        benchmark: the benchmark's name, for the message.

    Raises:
        UserError: the main metric is missing, or a score is no finite number from 0 to 100.
    """
    if main_metric not in scores:
        raise UserError(
            f"benchmark {benchmark} returned no score {main_metric!r}",
            allowed=f"scores with its main metric among them, not only {sorted(scores)}",
            do="mend its score or its main_metric",
        )
    for name, value in scores.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number or not 0 <= value <= 100 + ROUNDING:
            raise UserError(
                f"benchmark {benchmark} returned {name}={value!r}",
                allowed="finite numbers from 0 to 100",
                do="mend its score: 100 is the best answer, 0 the worst",
            )


def check_scale(benchmark: Benchmark, example: Example) -> None:
    """Refuses a benchmark that scores shares of 1: its own reference answer gives it away.

    Args:
        benchmark: the benchmark.
        example: of one of its tasks; without a reference nothing can be told.

    Raises:
        UserError: the reference, given as the answer, scores above 0 and at most 1.
    """
    main_metric = benchmark.main_metric(example.task)
    for answer in example.answers[:1]:
        score = benchmark.score(example, answer).get(main_metric, 0.0)
        if 0 < score <= 1:
            raise UserError(
                f"benchmark {benchmark.name} scores its own reference {score!r} ({main_metric})",
                allowed="scores from 0 to 100, 100 for the best answer",
                do="multiply what its score returns by 100",
            )
