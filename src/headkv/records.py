"""What flows between the layers: an example to answer, and the row its answer or failure becomes.

Plain data: no torch, no transformers, no files. `text_config` is the one thing that all layers
must know of a transformers config.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from headkv.errors import UserError


@dataclass(frozen=True)
class Example:
    """One question of a benchmark, before any model has seen it.

    Attributes:
        id: name of the example, unique within its task and the same in every run with the same
            settings.
        task: the file the answer goes to, e.g. `single`, `qasper`.
        prompt: the user's text; the chat template is not yet applied.
        answers: reference answers; the best one counts.
        max_new_tokens: most tokens the model may answer with.
        question_chars: how many characters at the end of `prompt` are the question, the context
            standing before them; 0 where the two cannot be told apart.
        later_chars: how many characters at the end of `prompt` are read by the compressed cache
            even where the question is seen: later turns of a conversation. 0: only the template's
            end; None: nothing is.
        stop: texts whose last token ends the answer, besides the model's end tokens.
        answer_prefix: how the answer begins; the model goes on from there, in its own turn.
        meta: extra columns of the result row, e.g. `{"length": 1024, "depth": 0.5}`.
    """

    id: str
    task: str
    prompt: str
    answers: tuple[str, ...]
    max_new_tokens: int
    question_chars: int = 0
    later_chars: int | None = None
    stop: tuple[str, ...] = ()
    answer_prefix: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One line of a result file: one example answered by one cell.

    Attributes:
        id: the example's id.
        prediction: the model's answer, without special tokens.
        answers: the example's reference answers.
        score: the task's main metric, 0 to 100.
        scores: every metric of the task by name.
        prompt_tokens: tokens of the prompt, chat template included.
        new_tokens: tokens of the answer.
        kv_size: mean tokens a stored head may keep; None for the full cache.
        kept_tokens: entries held right after compression, summed over layers and stored heads,
            counted on the cache.
        cache_bytes: bytes that those entries occupy.
        full_cache_bytes: bytes that the uncompressed per-KV-head cache of this prompt occupies.
        protocol: `corrected` or `paper`.
        granularity: `kv_head` or `query_head`.
        compress_on: `prompt`, or `context`: compressed before the question was seen.
        seconds: prefill (the example's share of its batch; all its cells have the same), compress,
            and this row's share of what its batch took to decode and, if it was, to measure.
        run_key: `<cell>-<example>`, both hashes of everything that changes the output.
        benchmark: the benchmark's name, as the file's folders say it too; so are the next three.
        model: the model's name.
        method: the method's name, with whatever replaces its own parts: `headkv_r2+keydiff`.
        task: the example's task.
        seed: of the run; None where a row does not say it.
        context_tokens: how many tokens of the prompt were compressed.
        stored_heads: number of (layer, stored head) pairs that share the budget.
        chat_template: whether the prompt was a user's turn of the model's chat template.
        end_tokens: ids of the tokens that could end the answer.
        fidelity: what `headkv.evaluation.fidelity` measured; None where it was not asked to.
        decoding: entries and bytes held over the answer, tail included: `peak_entries`,
            `mean_entries`, `peak_bytes`, `mean_bytes`; None in rows written before it was counted.
        settings: where a run tells settings apart: `published`, `tuned`, `tuned_on_all`, `trial`.
        parameters: those of the method that were chosen or tried, by path.
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
    benchmark: str = ""
    model: str = ""
    method: str = ""
    task: str = ""
    seed: int | None = None
    context_tokens: int = 0
    stored_heads: int = 0
    chat_template: bool = False
    end_tokens: tuple[int, ...] = ()
    fidelity: dict[str, float | None] | None = None
    decoding: dict[str, int | float] | None = None
    settings: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON object of the result file, `meta` flattened into it."""
        row = asdict(self)
        meta = row.pop("meta")
        if self.settings is None:
            del row["settings"], row["parameters"]
        return row | meta


@dataclass(frozen=True)
class Failure:
    """The line of an example that could not be answered; the next run tries it again.

    Attributes:
        id: the example's id.
        error: why there is no answer, in one line.
        run_key: the key that its result would have had.
    """

    id: str
    error: str
    run_key: str

    def as_row(self) -> dict[str, Any]:
        """Returns the JSON object of the result file."""
        return asdict(self)


def shorten(text: str, limit: int) -> str:
    """Returns the text, or its first and last `limit // 2` characters around a note.

    Args:
        text: the text.
        limit: most characters that are left as they are.
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def text_config(config: Any) -> Any:
    """Returns the config of the decoder, which multimodal models wrap in another.

    Args:
        config: a transformers config.

    Raises:
        UserError: what was given is no config; a model's is `model.config`.
    """
    if not hasattr(config, "get_text_config"):
        given = "nothing" if config is None else type(config).__name__
        raise UserError(
            f"{given} was given where a model's config is wanted",
            allowed="a transformers config",
            do="give model.config",
        )
    return config.get_text_config(decoder=True)
