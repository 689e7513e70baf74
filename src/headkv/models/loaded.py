"""TODO."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer.

    Attributes:
        name: names the folder of its results.
        model: the transformers model.
        tokenizer: its tokenizer.
        weights: identity of the weights, for run keys.
        max_prompt_tokens: prompts are cut in the middle to this length.
        chat_template: whether the model is to be asked through its chat template.
    """

    name: str
    model: Any
    tokenizer: Any
    weights: str
    max_prompt_tokens: int
    chat_template: bool = True
