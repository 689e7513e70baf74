"""An example as a model reads it: its tokens, which are compressed, and when an answer ends."""

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from headkv.benchmarks.base import Benchmark
from headkv.errors import UserError
from headkv.evaluation.settings import Settings
from headkv.generation.decoding import Stopping
from headkv.models.loaded import Loaded
from headkv.models.prompts import EncodedPrompt, encode, end_token_ids, special_texts
from headkv.models.spec import check_context
from headkv.records import Example
from headkv.storage.validation import in_validation

logger = logging.getLogger(__name__)

SHOWN = 3
"""Examples that `probe=examples` shows."""


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
        probe: token ids that take the observation window's place while the context is compressed.
        special: what the row says of special tokens of the model that the benchmark's text spells
            out, if it does: how many, and whether they were split.
    """

    example: Example
    prompt: EncodedPrompt
    behind: int
    template_tokens: int
    chat_template: bool
    stopping: Stopping
    probe: tuple[int, ...] = ()
    special: dict[str, int | bool] = field(default_factory=dict)

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
        return self.behind, self.template_tokens, self.stopping, len(self.probe)

    @property
    def kind_but_lead(self) -> tuple[Any, ...]:
        """The same for caches that read leads of several lengths together."""
        return self.behind > 0, self.template_tokens, self.stopping


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
        self._warned = False

    def _end_tokens(self) -> tuple[int, ...]:
        """The model's end tokens; protocol `paper` stopped at the tokenizer's own one only."""
        if self.settings.protocol.all_end_tokens:
            return end_token_ids(self.loaded.tokenizer, self.loaded.model.generation_config)
        own = self.loaded.tokenizer.eos_token_id
        return () if own is None else (int(own),)

    def _special_in(self, example: Example) -> int:
        """How often the text says one of the model's special tokens."""
        count = sum(example.prompt.count(text) for text in special_texts(self.loaded.tokenizer))
        if count and not self._warned:
            self._warned = True
            split = self.settings.split_special_tokens
            logger.warning(
                "%s %s holds %d special tokens of the model, which are %s; rows count them in "
                "special_tokens_in_text",
                example.task,
                example.id,
                count,
                "split" if split else "taken as such (split_special_tokens=true splits them)",
            )
        return count

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
                a prompt longer than the model takes, of a benchmark that cuts none; or an answer
                that may be longer than its context.
        """
        templated = self.templated(example.task)
        seen = (compress_on or self.settings.compress_on[0]) == "prompt"
        later = example.later_chars if seen else None
        special, split = self._special_in(example), self.settings.split_special_tokens
        prompt = encode(
            self.loaded.tokenizer,
            example.prompt,
            chat_template=templated,
            # A text that was built to a length is what it should be.
            max_prompt_tokens=(
                self.loaded.max_prompt_tokens if self.benchmark.longest is None else None
            ),
            question_chars=example.question_chars if later is None else later,
            answer_prefix=example.answer_prefix,
            split_special_tokens=split and special > 0,
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
        if later is not None:
            behind = prompt.question_tokens or prompt.template_tokens
        elif seen:
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
        encoded = EncodedExample(
            example,
            prompt,
            behind,
            template,
            templated,
            stopping,
            special={"special_tokens_in_text": special, "special_tokens_split": split}
            if special
            else {},
        )
        return replace(encoded, probe=tuple(self._probe(encoded)))

    def _probe(self, encoded: EncodedExample) -> list[int]:
        """The text that says what will be asked, as token ids; see `Settings.probe`."""
        kind, example = self.settings.probe, encoded.example
        if kind == "none":
            return []
        if kind == "question":
            lead = encoded.lead
            return lead[: len(lead) - encoded.prompt.template_tokens]
        text = "\n\n" + self.benchmark.instruction(example.task)
        if kind == "examples":
            for other in self._shown(example):
                question = other.prompt[len(other.prompt) - other.question_chars :].strip()
                text += f"\n\n{question}\n{other.answers[0]}"
        split = {"split_special_tokens": True} if self.settings.split_special_tokens else {}
        tokenizer = self.loaded.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, **split)["input_ids"]
        return ids

    def _shown(self, example: Example) -> list[Example]:
        """Examples of the task with their answers, never the one that is asked.

        Those of the validation part come first, which no table takes where parameters are chosen.
        """
        task = [each for each in self._every if each.task == example.task and each.answers]
        task.sort(key=lambda each: not in_validation(each.task, each.id))
        return [each for each in task if each.id != example.id][:SHOWN]

    @cached_property
    def _every(self) -> list[Example]:
        return self.benchmark.examples(self.loaded.tokenizer)

    def _stopping(self, example: Example) -> Stopping:
        """The model's end tokens and the example's own, none of which may come first then."""
        check_context(
            self.loaded.model.config,
            max(example.max_new_tokens, self.settings.protocol.min_new_tokens),
            f"{self.benchmark.name} {example.task}: an answer",
            "lower the longest answer of the benchmark, such as benchmark.max_new_tokens=, or "
            "protocol.min_new_tokens=",
        )
        least = max(int(self.settings.protocol.min_new_tokens), bool(example.stop))
        tokenizer = self.loaded.tokenizer
        own = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in example.stop]
        return Stopping(example.max_new_tokens, (*self.ends, *own), least)
