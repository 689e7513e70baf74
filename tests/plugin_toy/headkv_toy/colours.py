"""A benchmark of two questions."""

from pathlib import Path

from headkv.benchmarks.base import Benchmark
from headkv.metrics import contains
from headkv.records import Example


class Colours(Benchmark):
    """What colour is it?

    Args:
        sentences: in front of the question, so many.
        data_dir: not needed.
    """

    name = "colours"
    tasks = ("colours",)

    def __init__(self, sentences: int = 20, data_dir: Path | None = None) -> None:
        self.sentences = sentences

    def examples(self, tokenizer: object) -> list[Example]:
        """Two examples."""
        text = "The door is green. " * self.sentences
        return [
            Example(str(i), "colours", f"{text}What colour is {thing}?", ("green",), 5)
            for i, thing in enumerate(("the door", "it"))
        ]

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        """Exact containment."""
        return {"contains": 100.0 * contains(prediction, example.answers)}

    def main_metric(self, task: str) -> str:
        """Exact containment."""
        return "contains"
