"""An example as a model reads it: its tokens, which are compressed, and when an answer ends."""

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
class EncodedExample:
    """One example, encoded.

    Attributes:
        example: the example.
        prompt: its tokens.
        behind: number of its last tokens that are fed to the compressed cache; those before them
            are prefilled and compressed.
        template_tokens: number of the last compressed tokens that belong to the chat template.
        chat_template: whether the prompt is a user's turn of the chat template.
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
        """The token ids that are prefilled and compressed."""
        return self.prompt.input_ids[: len(self.prompt.input_ids) - self.behind]

    @property
    def lead(self) -> list[int]:
        """The token ids that are fed to the compressed cache before it answers."""
        return self.prompt.input_ids[len(self.prompt.input_ids) - self.behind :]

    @property
    def turn(self) -> list[int]:
        """The end of the chat template, where the model's turn begins; none without a template."""
        ids = self.prompt.input_ids
        return ids[len(ids) - self.prompt.template_tokens :] if self.chat_template else []

    @property
    def kind(self) -> tuple[Any, ...]:
        """What examples that are answered in one batch have in common."""
        return self.behind, self.template_tokens, self.stopping


class Encoder:
    """Encodes the examples of a run.

    Args:
        settings: the settings of the run.
        benchmark: says which tasks use the chat template.
        loaded: the model.

    Attributes:
        ends: ids of the tokens that end any answer.
    """

    def __init__(self, settings: Settings, benchmark: Benchmark, loaded: Loaded) -> None:
        self.settings, self.benchmark, self.loaded = settings, benchmark, loaded
        self.ends = self._end_tokens()

    def _end_tokens(self) -> tuple[int, ...]:
        """The model's end tokens; protocol `paper` stopped at the tokenizer's own one only."""
        if self.settings.protocol.all_end_tokens:
            return end_token_ids(self.loaded.tokenizer, self.loaded.model.generation_config)
        own = self.loaded.tokenizer.eos_token_id
        return () if own is None else (int(own),)

    def templated(self, task: str) -> bool:
        """Whether a task's prompts are put into the chat template."""
        wanted = self.loaded.chat_template and self.settings.protocol.chat_template
        return bool(wanted) and self.benchmark.uses_chat_template(task)

    def encode(self, example: Example, compress_on: str | None = None) -> EncodedExample:
        """Encodes an example.

        Args:
            example: an example of the benchmark.
            compress_on: `prompt` or `context`; None: the first of the settings.

        Returns:
            Its tokens, and how they are to be answered.

        Raises:
            UserError: `compress_on=context`, and the benchmark does not tell context from question;
                or a prompt longer than the model takes, of a benchmark that cuts none.
        """
        templated = self.templated(example.task)
        prompt = encode(
            self.loaded.tokenizer,
            example.prompt,
            chat_template=templated,
            # A text that was built to a length is what it should be.
            max_prompt_tokens=(
                self.loaded.max_prompt_tokens if self.benchmark.longest is None else None
            ),
            question_chars=example.question_chars,
            answer_prefix=example.answer_prefix,
        )
        if prompt.truncated and not self.benchmark.truncates:
            limit = self.loaded.max_prompt_tokens
            raise UserError(
                f"{self.benchmark.name} {example.task} {example.id} is longer than the {limit} "
                f"tokens that {self.loaded.name} takes, and what is cut out may be what is asked",
                allowed=f"prompts of {limit} tokens, question included",
                do="choose shorter ones: benchmark.lengths= or task=, or a model of longer context",
            )
        behind, template = 0, 0  # the template's tail is behind the question: a context has none
        if (compress_on or self.settings.compress_on[0]) == "prompt":
            template = prompt.template_tokens if self.settings.protocol.keep_template else 0
        elif prompt.question_tokens:
            behind = prompt.question_tokens
        else:
            raise UserError(
                f"{self.benchmark.name} does not tell context from question in {example.id}",
                allowed="compress_on=prompt",
                do="leave compress_on= out",
            )
        stopping = self._stopping(example)
        return EncodedExample(example, prompt, behind, template, templated, stopping)

    def _stopping(self, example: Example) -> Stopping:
        """The model's end tokens and the example's own, none of which may come first then."""
        least = max(int(self.settings.protocol.min_new_tokens), bool(example.stop))
        tokenizer = self.loaded.tokenizer
        own = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in example.stop]
        return Stopping(example.max_new_tokens, (*self.ends, *own), least)
