"""What is fed to a finished cache in a second pass: token ids, worked out from texts of our own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPEAT = "\n\nWrite out the text above once more, word for word:"
CONTINUE = "\n\nWrite out the text above once more, word for word, going on from:"
TASKS = (
    "\n\nSummarise the text above.",
    "\n\nList every person, place, number and date in the text above, and what is said of each.",
    "\n\nAnswer a question about the text above with words from it.",
)
CHUNK = 2048
QUOTED = 8


@dataclass(frozen=True)
class Reading:
    """The token ids that a second pass feeds beside the prompt's own.

    Without any, chunks follow each other alone, and the prompt's last tokens are its task prompt.

    Attributes:
        repeat: asks for the text again, before its first chunk.
        proceed: asks for more of it, before the last tokens of the chunk before.
        answer: the end of the chat template, where the model's own turn begins.
        tasks: task prompts, each fed on its own, the template's end included.
        chunk: tokens of the prompt that are repeated at a time (2,048 in KVzip).
        quoted: tokens of the chunk before that are quoted (8 in KVzip).
    """

    repeat: tuple[int, ...] = ()
    proceed: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    tasks: tuple[tuple[int, ...], ...] = ()
    chunk: int = CHUNK
    quoted: int = QUOTED

    def lead(self, prompt: Sequence[int], first: int) -> list[int]:
        """What is fed before the chunk of a prompt that begins at `first`."""
        if first == 0:
            return [*self.repeat, *self.answer]
        return [*self.proceed, *prompt[max(first - self.quoted, 0) : first], *self.answer]

    def questions(self, prompt: Sequence[int]) -> list[list[int]]:
        """The task prompts; in their absence the prompt's last tokens."""
        return [list(task) for task in self.tasks] or [list(prompt[-8 * self.quoted :])]


def reading(tokenizer: "PreTrainedTokenizerBase", answer: Sequence[int] = ()) -> Reading:
    """The second pass's texts as a model reads them.

    Args:
        tokenizer: the model's.
        answer: the end of its chat template, token ids; none without a template.
    """

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    end = tuple(answer)
    return Reading(ids(REPEAT), ids(CONTINUE), end, tuple((*ids(task), *end) for task in TASKS))
