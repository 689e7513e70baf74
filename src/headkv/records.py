"""What flows between the layers: an example to answer, and the row its answer or failure becomes.

Plain data: no torch, no transformers, no files.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One question of a benchmark, before any model has seen it.

    Attributes:
        id: unique within its task, and the same in every run with the same settings.
        task: the file the answer goes to, e.g. `single`, `qasper`.
        prompt: the user's text; the chat template is not yet applied.
        answers: reference answers; the best one counts.
        max_new_tokens: how many tokens the model may answer with.
        question_chars: how many characters at the end of `prompt` are the question, the context
            standing before them; 0 where the two cannot be told apart.
        stop: texts whose last token ends the answer, besides the model's end tokens.
        meta: extra columns of the result row, e.g. `{"length": 1024, "depth": 0.5}`.
    """

    id: str
    task: str
    prompt: str
    answers: tuple[str, ...]
    max_new_tokens: int
    question_chars: int = 0
    stop: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One line of a result file: one example answered under one method and KV size.

    Attributes:
        kv_size: mean tokens a head may keep; None for the full cache.
        kept_tokens: entries held right after compression, summed over layers and stored heads,
            counted on the cache.
        cache_bytes: what those entries occupy.
        full_cache_bytes: what the uncompressed per-KV-head cache of this prompt occupies.
        seconds: prefill (the example's share of its batch; all its cells have the same), compress,
            and this row's share of what its batch took to decode and, if it was, to measure.
        run_key: `<cell>-<example>`, both hashes of everything that changes the output.
        context_tokens: of the prompt, how many were compressed.
        stored_heads: lists of tokens that the budget was shared among, over all layers that are
            compressed.
        chat_template: whether the prompt was a user's turn of the model's chat template.
        end_tokens: ids that could end the answer.
        fidelity: what `headkv.evaluation.fidelity` measured; None: it was not asked to.
        meta: the example's extra columns, written beside the others.
    """

    id: str
    prediction: str
    answers: tuple[str, ...]
    score: float
    scores: dict[str, float]
    prompt_tokens: int
    new_tokens: int
    kv_size: int | None
    kept_tokens: int
    cache_bytes: int
    full_cache_bytes: int
    protocol: str
    granularity: str
    compress_on: str
    seconds: dict[str, float]
    run_key: str
    context_tokens: int = 0
    stored_heads: int = 0
    chat_template: bool = False
    end_tokens: tuple[int, ...] = ()
    fidelity: dict[str, float | None] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """The JSON object of the result file, `meta` flattened into it."""
        row = asdict(self)
        meta = row.pop("meta")
        return row | meta


@dataclass(frozen=True)
class Failure:
    """The line of an example that could not be answered; the next run tries it again.

    Attributes:
        id: of the example.
        error: why.
        run_key: what its result would have had.
    """

    id: str
    error: str
    run_key: str

    def as_row(self) -> dict[str, Any]:
        """The JSON object of the result file."""
        return asdict(self)


def shorten(text: str, limit: int) -> str:
    """The text itself, or its first and last `limit // 2` characters around a note."""
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"
