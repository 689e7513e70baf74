"""What each kind of file holds: one schema a kind, for who writes, reads, verifies or tidies it.

Columns that a schema does not name are let through, so that a benchmark can add its own.
"""

import math
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
)
from typing_extensions import TypedDict  # the one that pydantic reads before Python 3.12

_STRICT = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
LARGEST = 2**62  # what every reader of a table takes as a whole number

Name = Annotated[str, Field(min_length=1, max_length=10_000)]
Id = Name | Annotated[int, Field(ge=0, le=LARGEST)]
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Size = Count | None
Percent = Annotated[float, Field(ge=0, le=100.000001)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class Answer(TypedDict):
    """A row: one example answered by one cell; see `headkv.records.Result`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    id: Id
    run_key: Name
    score: Percent
    prompt_tokens: Count
    kv_size: Size
    kept_tokens: Count
    cache_bytes: Count
    full_cache_bytes: Count
    protocol: Literal["corrected", "paper"]
    granularity: Literal["kv_head", "query_head"]
    prediction: NotRequired[str]
    answers: NotRequired[list[str]]
    scores: NotRequired[dict[str, Percent]]
    new_tokens: NotRequired[Whole]
    seconds: NotRequired[dict[str, Seconds]]
    compress_on: NotRequired[Literal["prompt", "context"]]
    context_tokens: NotRequired[Whole]
    stored_heads: NotRequired[Whole]
    chat_template: NotRequired[bool]
    end_tokens: NotRequired[list[Whole]]
    fidelity: NotRequired[dict[str, float | None] | None]
    settings: NotRequired[Name]
    parameters: NotRequired[dict[str, int | float | bool | str]]
    length: NotRequired[Whole | Name]
    depth: NotRequired[Share]
    blanks: NotRequired[Count]
    bucket: NotRequired[Name]
    truncated: NotRequired[bool]


class Failure(TypedDict):
    """A row: why an example was not answered; see `headkv.records.Failure`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    id: Id
    run_key: Name
    error: str


class Spread(TypedDict):
    """Repeats of a measurement."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    median: float
    min: float
    max: float


class Times(TypedDict):
    """Seconds of a measurement; see `headkv.efficiency.rows`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    first_token: Spread
    token: Spread
    total: Annotated[
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Spread], Field(min_length=1)
    ]
    compress: NotRequired[Spread]


class Measurement(TypedDict):
    """A row: seconds and bytes of a cell at one prompt length."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    id: Id
    run_key: Name
    prompt_tokens: Count
    kv_size: Size
    kept_tokens: Count
    cache_bytes: Count
    held_bytes: dict[str, Whole]
    seconds: Times
    peak_bytes: Whole | None
    protocol: Name
    granularity: Name
    device: Name
    dtype: Name
    threads: Count
    weights: Name
    compress_share: NotRequired[Spread]


class Streamed(TypedDict):
    """A row: how likely a long text was under a bounded cache; see `headkv.stream`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    id: Id
    run_key: Name
    tokens: Count
    prefilled: Count
    loss: float
    perplexity: float
    losses: Annotated[list[float], Field(min_length=1)]
    kv_size: Size
    protocol: Name
    granularity: Name
    decoding: dict[str, float]


def _filed(value: list[Any]) -> list[Any]:
    """The cell key of a file and the number of examples that were asked for."""
    if len(value) != 2 or not isinstance(value[0], str) or type(value[1]) is not int:
        raise ValueError("not [cell key, number of examples]")
    return value


class RecordedCell(TypedDict):
    """A cell as a run record describes it."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    name: Name
    kv_size: NotRequired[Size]
    protocol: NotRequired[Name]
    granularity: NotRequired[Name]


class RunRecord(TypedDict):
    """Who ran what, where, when: `run.json` and `runs/*.json`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    command: NotRequired[list[str]]
    config: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, str | None]]
    commit: NotRequired[str | None]
    uncommitted_changes: NotRequired[bool]
    machine: NotRequired[dict[str, Any]]
    started: NotRequired[str]
    finished: NotRequired[str]
    stopped: NotRequired[str]
    weights: NotRequired[str | None]
    data: NotRequired[str]
    cells: NotRequired[list[RecordedCell]]
    files: NotRequired[dict[str, Annotated[list[Any], AfterValidator(_filed)]]]
    outcome: NotRequired[dict[str, Any]]


class InspectedCell(TypedDict):
    """What one cell kept of an inspected prompt; see `headkv.evaluation.kept_tokens`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    method: Name
    kv_size: Size
    granularity: Name
    kept: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")]
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    kept_tokens: NotRequired[Whole]


class Inspection(TypedDict):
    """Which tokens of a prompt each cell kept: `inspect/*.json`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    format: Literal[1]
    task: Name
    id: Name
    protocol: Name
    tokens: list[str]
    cells: list[InspectedCell]
    answers: NotRequired[list[str]]


class Prompt(TypedDict):
    """What was asked: a line of `prompts.ndjson`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    task: Name
    id: Name
    prompt: str


def _whole(value: dict[str, list[float]]) -> dict[str, list[float]]:
    """Scores of every head, which can be added up."""
    keys = [tuple(map(int, key.split("-"))) for key in value]
    layers, heads = (1 + max(key[axis] for key in keys) for axis in (0, 1))
    if len(set(keys)) != layers * heads or len(keys) != layers * heads:
        raise ValueError(f"scores for {len(keys)} heads, not for {layers} layers x {heads} heads")
    return {key: _finite(scores) for key, scores in value.items()}


def _finite(values: list[float]) -> list[float]:
    if not math.isfinite(sum(values)):
        raise ValueError("a sum that is infinite")
    return values


def _some(values: list[float]) -> list[float]:
    if not any(values):
        raise ValueError("all zero")
    return _finite(values)


Scores = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,4}-[0-9]{1,4}$")], list[float]],
    Field(min_length=1),
    AfterValidator(_whole),
]


class HeadScores(TypedDict):
    """A score file with its header; the published shape is `scores` alone."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    header: dict[str, Any]
    scores: Scores


class LayerImportance(TypedDict):
    """How much each layer suffers from compression."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    header: dict[str, Any]
    importance: Annotated[
        list[Annotated[float, Field(ge=0)]], Field(min_length=1), AfterValidator(_some)
    ]


def _table(value: list[list[float]]) -> list[list[float]]:
    """Scores `[layer, query_head]`."""
    if not value or len({len(row) for row in value}) > 1:
        raise ValueError("not a table [layer, query head]")
    return value


class HeadTest(TypedDict):
    """A finished test: a line of `<score file>.tests.jsonl`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    key: Name
    name: Name
    answer: str
    success: float
    scores: Annotated[list[list[float]], AfterValidator(_table)] | None


class Choice(TypedDict):
    """The chosen value of a tuned parameter: an entry of `chosen.json`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    method: Name
    kv_size: Size
    protocol: Name
    granularity: Name
    examples: dict[str, Whole]
    curve: list[Annotated[list[float], Field(min_length=2, max_length=2)]]


Setting = Annotated[int, Field(ge=-LARGEST, le=LARGEST)] | float | bool | Name


class Trial(TypedDict):
    """Settings that were tried: an entry of `Tuned.tried`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    parameters: dict[str, Setting]
    score: Percent
    kl: float | None


class Tuned(TypedDict):
    """What was chosen for a method at a KV size: an entry of `settings.json`.

    `cell` is the same on every benchmark, `families` are those that it was chosen on.
    """

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    cell: Name
    method: Name
    kv_size: Count
    protocol: Name
    granularity: Name
    families: Annotated[list[Name], Field(min_length=1)]
    examples: Annotated[dict[str, Count], Field(min_length=1)]
    measure: Name
    space: dict[str, list[Setting]]
    trials: Count
    trials_seed: Whole
    tried: Annotated[list[Trial], Field(min_length=1)]
    chosen: dict[str, Setting]


class Cost(TypedDict):
    """What compressing takes of a prefill: an entry of `compression_cost.json`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    method: Name
    percent: Seconds
    second_pass_percent: Seconds


class Costs(TypedDict):
    """The file of `bench.compression_cost`."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    methods: list[Cost]


def _score_file(content: Any) -> str:
    """Which of its two shapes a score file has."""
    return "ours" if isinstance(content, dict) and "header" in content else "published"


Schema = TypeAdapter[Any]
ANSWER: Schema = TypeAdapter(Answer)
FAILURE: Schema = TypeAdapter(Failure)
MEASUREMENT: Schema = TypeAdapter(Measurement)
STREAMED: Schema = TypeAdapter(Streamed)
RUN_RECORD: Schema = TypeAdapter(RunRecord)
INSPECTION: Schema = TypeAdapter(Inspection)
PROMPT: Schema = TypeAdapter(Prompt)
SCORE_FILE: Schema = TypeAdapter(
    Annotated[
        Annotated[HeadScores, Tag("ours")] | Annotated[Scores, Tag("published")],
        Discriminator(_score_file),
    ],
    config=ConfigDict(strict=True, allow_inf_nan=False),
)
LAYER_IMPORTANCE: Schema = TypeAdapter(LayerImportance)
HEAD_TEST: Schema = TypeAdapter(HeadTest)
CHOICES: Schema = TypeAdapter(dict[str, Choice])
TUNED: Schema = TypeAdapter(dict[str, Tuned])
COSTS: Schema = TypeAdapter(Costs)
