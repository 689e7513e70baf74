"""An example as a model is asked it: tokens, which of them are compressed, when an answer ends."""

from dataclasses import dataclass
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.errors import UserError
from headkv.evaluation.settings import Settings
from headkv.generation.decoding import Stopping
from headkv.models.loaded import Loaded
from headkv.models.prompts import EncodedPrompt, encode, end_token_ids
from headkv.records import Example


@dataclass(frozen=True)
class Ask:
    """One example, encoded.

    Attributes:
        example: what is asked.
        prompt: its tokens.
        behind: how many of the last ones are fed to the compressed cache; the others are
            prefilled and compressed.
        template_tokens: how many of the last that are compressed belong to the chat template.
        chat_template: whether it is used.
        stopping: when an answer ends.
    """

    example: Example
    prompt: EncodedPrompt
    behind: int
    template_tokens: int
    chat_template: bool
    stopping: Stopping

    @property
    def context(self) -> list[int]:
        """What is prefilled and compressed."""
        return self.prompt.input_ids[: len(self.prompt.input_ids) - self.behind]

    @property
    def lead(self) -> list[int]:
        """What is fed to the compressed cache before it answers."""
        return self.prompt.input_ids[len(self.prompt.input_ids) - self.behind :]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What examples have in common that are answered in one batch."""
        return self.behind, self.template_tokens, self.stopping


class Asker:
    """Encodes the examples of a run.

    Args:
        settings: of the run.
        benchmark: says which tasks use the chat template.
        loaded: the model.
    """

    def __init__(self, settings: Settings, benchmark: Benchmark, loaded: Loaded) -> None:
        self.settings, self.benchmark, self.loaded = settings, benchmark, loaded
        self.ends = self._end_tokens()

    def _end_tokens(self) -> tuple[int, ...]:
        """`paper` stopped at the tokenizer's own end token only."""
        if self.settings.protocol["all_end_tokens"]:
            return end_token_ids(self.loaded.tokenizer, self.loaded.model.generation_config)
        return (int(self.loaded.tokenizer.eos_token_id),)

    def templated(self, task: str) -> bool:
        """Whether a task's prompts are put into the chat template."""
        wanted = self.loaded.chat_template and self.settings.protocol["chat_template"]
        return bool(wanted) and self.benchmark.uses_chat_template(task)

    def ask(self, example: Example) -> Ask:
        """Encodes an example.

        Raises:
            UserError: `compress_on=context`, and the benchmark does not tell context from question.
        """
        templated = self.templated(example.task)
        prompt = encode(
            self.loaded.tokenizer,
            example.prompt,
            chat_template=templated,
            max_prompt_tokens=self.loaded.max_prompt_tokens,
            question_chars=example.question_chars,
        )
        behind, template = 0, 0  # the template's tail is behind the question: a context has none
        if self.settings.compress_on == "prompt":
            template = prompt.template_tokens if self.settings.protocol["keep_template"] else 0
        elif prompt.question_tokens:
            behind = prompt.question_tokens
        else:
            raise UserError(
                f"{self.benchmark.name} does not tell context from question in {example.id}",
                allowed="compress_on=prompt",
                do="leave compress_on= out",
            )
        return Ask(example, prompt, behind, template, templated, self._stopping(example))

    def _stopping(self, example: Example) -> Stopping:
        """The model's end tokens and the example's own, none of which may come first then."""
        least = max(int(self.settings.protocol["min_new_tokens"]), bool(example.stop))
        tokenizer = self.loaded.tokenizer
        own = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in example.stop]
        return Stopping(example.max_new_tokens, (*self.ends, *own), least)
