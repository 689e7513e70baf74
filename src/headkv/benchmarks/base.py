"""TODO."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Benchmark(ABC):
    """What the runner needs of a benchmark.

    Attributes:
        name: folder of the results.
        tasks: names of its tasks, one result file each.
        sets: names for several tasks at once, besides `all`.
    """

    name: str
    tasks: tuple[str, ...]
    sets: Mapping[str, tuple[str, ...]] = {}

    @abstractmethod
    def examples(self, tokenizer: "PreTrainedTokenizerBase") -> list[Example]:
        """All examples, the same at every call.

        Args:
            tokenizer: the model's, for benchmarks that build texts of a length in tokens.

        Returns:
            Examples in the order in which `limit` takes the first few of each task.
        """

    @abstractmethod
    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Every score of one answer, by name; the task's `main_metric` is among the names."""

    @abstractmethod
    def main_metric(self, task: str) -> str:
        """Which of the scores is the `score` of an example of this task."""

    def uses_chat_template(self, task: str) -> bool:
        """Whether the task's prompts are a user's turn; LongBench has some that are not."""
        return True
