"""Benchmarks: where questions come from and how answers are scored. One file, one benchmark."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from headkv.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Benchmark(ABC):
    """What the runner needs of a benchmark.

    Attributes:
        name: folder of the results and yaml in `conf/benchmark`.
        main_metric: which of the scores is an example's `score`.
        tasks: names of its tasks, one result file each.
    """

    name: ClassVar[str]
    main_metric: ClassVar[str]
    tasks: tuple[str, ...]

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
        """Every score of one answer, by name; `main_metric` is among the names."""

    def uses_chat_template(self, task: str) -> bool:
        """Whether the task's prompts are a user's turn; LongBench has some that are not."""
        return True
