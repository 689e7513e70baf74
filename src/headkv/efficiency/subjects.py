"""What is compared: the caches of all cells, and transformers' own as the baseline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from headkv.cache import CompressedCache
from headkv.efficiency.measure import Clock, PeakMemory, Run, Spans, dynamic_bytes
from headkv.methods import Method
from headkv.storage.result_file import DEFAULTS

BASELINE = "dynamic_cache"


@dataclass(frozen=True, eq=False)
class Subject:
    """One way to hold the keys and values of a prompt.

    Attributes:
        name: a method's name, or `BASELINE`.
        make: an empty cache.
        attention: the model's attention function for it.
        kv_size: None for the full cache.
        protocol: the method's.
        granularity: the method's.
        identity: everything about it that changes a measurement.
    """

    name: str
    make: Callable[[], Any]
    attention: str
    kv_size: int | None = None
    protocol: str = DEFAULTS[0]
    granularity: str = DEFAULTS[1]
    identity: dict[str, Any] = field(default_factory=dict)


def compressed(name: str, method: Method, config: Any, identity: dict[str, Any]) -> Subject:
    """A method's cache, FullKV's included."""
    return Subject(
        name,
        lambda: CompressedCache(config, method),
        "headkv",
        method.kv_size,
        method.protocol,
        str(method.granularity),
        identity,
    )


def baseline(config: Any) -> Subject:
    """transformers' `DynamicCache` under its SDPA attention: what one has without this package."""
    return Subject(BASELINE, lambda: DynamicCache(config=config), "sdpa")


@dataclass(frozen=True)
class Sample:
    """One run of one subject.

    Attributes:
        first: seconds to the first token.
        compress: seconds of it spent on compressing.
        steps: seconds of each one-token step.
        sizes: bytes and entries of the cache, see `sizes_of`; after prefill and at the end.
    """

    first: float
    compress: float
    steps: list[float]
    sizes: tuple[dict[str, int], dict[str, int]]


class Trial:
    """One run of one subject: prefilled when made, then decoded in as many parts as wanted.

    Args:
        subject: what holds the keys and values.
        model: its attention function is set to the subject's.
        input_ids: `[1, token]`.

    Attributes:
        first: seconds to the first token.
        compress: seconds of it spent on compressing.
        sizes: of the cache right after prefill, see `sizes_of`.
    """

    def __init__(self, subject: Subject, model: Any, input_ids: Tensor) -> None:
        self.subject, self.model = subject, model
        cache = subject.make()
        self._run = Run(model, cache, input_ids)
        spans = Spans(Clock(input_ids.device))
        layers = cache.layers if isinstance(cache, CompressedCache) else []
        self._attend()
        with spans.watch(layers, "receive"):
            self.first = self._run.prefill()
        self.compress = spans.seconds
        self.sizes = sizes_of(cache)

    def decode(self, steps: int) -> list[float]:
        """Seconds of each of the next one-token steps."""
        self._attend()
        return self._run.decode(steps)

    @property
    def held(self) -> int:
        """Bytes the cache holds now."""
        return sizes_of(self._run.cache)["held"]

    def _attend(self) -> None:
        if self.model.config._attn_implementation != self.subject.attention:
            self.model.set_attn_implementation(self.subject.attention)


def peak_memory(subject: Subject, model: Any, input_ids: Tensor) -> PeakMemory:
    """Peak of a run that is not timed: the prefill and two tokens, enough for a cache to regrow."""
    with PeakMemory(input_ids.device) as peak:
        Trial(subject, model, input_ids).decode(2)
    return peak


def sizes_of(cache: Any) -> dict[str, int]:
    """What a cache holds: `entries` of the prompt, what they occupy, and `held` bytes in all."""
    if isinstance(cache, CompressedCache):
        return {
            "entries": int(cache.kept_tokens.sum()),
            "entry_bytes": cache.kept_bytes,
            "held": cache.nbytes,
        }
    entries = sum(layer.keys.shape[:3].numel() for layer in cache.layers)
    content = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return {"entries": entries, "entry_bytes": content, "held": dynamic_bytes(cache)}
