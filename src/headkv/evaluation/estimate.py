"""What a run will take, told before it starts: from a count of tokens and one short probe.

The probe answers a piece of one example under all cells, so it holds whatever the run does: the
model, the device, compression, decoding and measuring. Prefill grows with the prompt as its
arithmetic does: a part in proportion to the tokens, and attention with their square.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from headkv.evaluation.encoding import Encoder
from headkv.evaluation.plan import Asked, Name
from headkv.evaluation.scheduler import Scheduler
from headkv.records import Example

Stream = Callable[[Container[Name]], Iterable[Example]]
"""Builds the examples of these names."""
LONG = 50  # examples from which a run is worth a probe
_COUNTED = 200  # examples whose tokens are all counted; of more, a sample of each task
_SAMPLED = 10  # of a task
_PROBE_CHARS = {"cpu": 2_000, "cuda": 8_000}  # a GPU is not busy with less
_PROBE_TOKENS = 8  # of the probe's answer


@dataclass(frozen=True)
class Estimate:
    """What is left of a run.

    Attributes:
        examples: number of examples that some cell has yet to answer.
        cells: number of cells that have yet to answer one.
        answers: number of answers of all these cells.
        prompt_tokens: number of tokens to prefill, those of each example once.
        exact: whether they were counted, not estimated from a sample's characters.
        new_tokens: number of tokens of all answers, if each is as long as it may be.
        seconds: duration of all of it, with answers that long.
        device: type of the device that it runs on.
    """

    examples: int
    cells: int
    answers: int
    prompt_tokens: int
    exact: bool
    new_tokens: int
    seconds: float
    device: str

    def __str__(self) -> str:
        if not self.examples:
            return "nothing is left to do"
        about = "" if self.exact else "about "
        return (
            f"{self.examples:,} examples x {self.cells} cells, {self.answers:,} answers to go: "
            f"{about}{self.prompt_tokens:,} prompt tokens, at most {self.new_tokens:,} new ones; "
            f"at most about {timedelta(seconds=round(self.seconds))} on this {self.device}"
        )


@dataclass(frozen=True)
class Speed:
    """How long the steps of the probe took.

    Attributes:
        tokens: number of tokens of its prompt.
        prefill: seconds for its one example.
        compress: seconds for its one example and one cell.
        token: seconds for one token of one cell's answer.
        measure: seconds for the fidelity of one cell.
    """

    tokens: int
    prefill: float
    compress: float
    token: float
    measure: float


def estimate(
    work: Sequence[Asked], stream: Stream, encoder: Encoder, scheduler: Scheduler
) -> Estimate:
    """Counts tokens and runs the probe; writes nothing.

    Args:
        work: what a `Runner` has yet to answer.
        stream: builds examples of it.
        encoder: the runner's.
        scheduler: one of the runner's.

    Raises:
        UserError: an example cannot be asked, or not even the probe fits into memory.
    """
    model = encoder.loaded.model
    if not work:
        return Estimate(0, 0, 0, 0, True, 0, 0.0, model.device.type)
    tokens, exact = _prompt_tokens(work, stream, encoder)
    speed = _probe(work, stream, encoder, scheduler)
    per_token, per_square = _prefill_flops(model)

    def flops(count: int) -> float:
        return per_token * count + per_square * count**2

    seconds = 0.0
    for asked, count in zip(work, tokens, strict=True):
        seconds += speed.prefill * flops(count) / flops(speed.tokens)
        each = speed.compress * count / speed.tokens + speed.measure
        seconds += len(asked.cells) * (each + speed.token * asked.max_new_tokens)
    return Estimate(
        examples=len(work),
        cells=len({cell for asked in work for cell in asked.cells}),
        answers=sum(len(asked.cells) for asked in work),
        prompt_tokens=sum(tokens),
        exact=exact,
        new_tokens=sum(len(asked.cells) * asked.max_new_tokens for asked in work),
        seconds=seconds,
        device=model.device.type,
    )


def _prompt_tokens(
    work: Sequence[Asked], stream: Stream, encoder: Encoder
) -> tuple[list[int], bool]:
    """Tokens of each prompt as it will be asked, and whether every one was counted."""
    by_task: dict[str, list[Asked]] = defaultdict(list)
    for asked in work:
        by_task[asked.task].append(asked)
    exact = len(work) <= _COUNTED
    some = (
        work if exact else [e for own in by_task.values() for e in own[:: -(-len(own) // _SAMPLED)]]
    )
    counted = {
        (example.task, example.id): len(encoder.encode(example).prompt.input_ids)
        for example in stream({asked.name for asked in some})
    }
    if exact:
        return [counted[asked.name] for asked in work], True
    longest, per_char = encoder.loaded.max_prompt_tokens, {}
    if encoder.benchmark.longest is not None:
        longest = max(longest, encoder.benchmark.longest)
    for task, own in by_task.items():
        pairs = [(counted[e.name], e.chars) for e in own if e.name in counted]
        whole = [pair for pair in pairs if pair[0] < 0.98 * longest] or pairs
        per_char[task] = sum(pair[0] for pair in whole) / sum(pair[1] for pair in whole)
    guessed = [per_char[asked.task] * asked.chars for asked in work]
    return [max(1, min(round(tokens), longest)) for tokens in guessed], False


def _probe(work: Sequence[Asked], stream: Stream, encoder: Encoder, scheduler: Scheduler) -> Speed:
    """Answers the end of the first example under its cells, twice: the first time warms up."""
    asked = max(work, key=lambda each: len(each.cells))
    example = next(iter(stream({asked.name})))
    modes = [scheduler.compress_on(cell) for cell in asked.cells]
    cells = [cell for cell, mode in zip(asked.cells, modes, strict=True) if mode == modes[0]]
    device = encoder.loaded.model.device.type
    text = example.prompt[-_PROBE_CHARS.get(device, _PROBE_CHARS["cuda"]) :]
    chars = min(example.question_chars, len(text) // 2)
    piece = encoder.encode(replace(example, prompt=text, question_chars=chars), modes[0])
    stopping = replace(piece.stopping, max_new_tokens=_PROBE_TOKENS, min_new_tokens=_PROBE_TOKENS)
    piece = replace(piece, stopping=stopping)
    for _ in range(2):
        answers = [answer for batch in scheduler.answers([piece], cells) for answer in batch]
    names = answers[0].seconds
    mean = {name: sum(each.seconds[name] for each in answers) / len(answers) for name in names}
    return Speed(
        tokens=len(piece.prompt.input_ids),
        prefill=mean["prefill"],
        compress=mean["compress"],
        token=mean["decode"] / _PROBE_TOKENS,
        measure=mean.get("fidelity", 0.0),
    )


def _prefill_flops(model: Any) -> tuple[float, float]:
    """Operations of a prefill: for each token, and for each pair of tokens that attend.

    Every weight but the embedding's is a product and a sum a token; causal attention two of them
    for half of all pairs, over the width of all query heads, for scores and for values.
    """
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weights = sum(each.numel() for each in model.parameters())
    weights -= model.get_input_embeddings().weight.numel()
    return 2.0 * weights, 2.0 * config.num_hidden_layers * config.num_attention_heads * width
