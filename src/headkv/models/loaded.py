"""A model with its tokenizer and what its yaml says of prompts, as runs hand it around."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer.

    Attributes:
        name: name of the model and of the folder of its results.
        model: the transformers model.
        tokenizer: the model's tokenizer.
        weights: identity of the weights, for run keys.
        max_prompt_tokens: most tokens of a prompt, which is cut in the middle to this length.
        chat_template: whether the model is to be asked through its chat template.
    """

    name: str
    model: Any
    tokenizer: Any
    weights: str
    max_prompt_tokens: int
    chat_template: bool = True
