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
"""Name of transformers' own cache."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One way to hold the keys and values of a prompt.

    Attributes:
        name: a method's name, or `BASELINE`.
        make: makes an empty cache.
        attention: name of the model's attention function for that cache.
        kv_size: mean tokens a stored head may keep; None for the full cache.
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

    @property
    def reads_head_scores(self) -> bool:
        """Whether the method's scorer or allocator reads head scores."""
        parts = [part for part in self.identity.values() if isinstance(part, dict)]
        return any("head_scores" in part for part in parts)


def compressed(name: str, method: Method, config: Any, identity: dict[str, Any]) -> Subject:
    """Returns a method's cache as a subject, FullKV's included.

    Args:
        name: the method's name.
        method: what compresses.
        config: the model's config.
        identity: everything about the method that changes a measurement.
    """
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
    """Returns transformers' `DynamicCache` under SDPA attention, as without this package."""
    return Subject(BASELINE, lambda: DynamicCache(config=config), "sdpa")


class Trial:
    """One run of one subject: prefilled when made, then decoded in as many parts as wanted.

    Args:
        subject: what holds the keys and values.
        model: the model, whose attention function is set to the subject's.
        input_ids: the prompt, int64 `[1, token]`.

    Attributes:
        first: seconds to the first token, compression included.
        compress: seconds spent on compressing.
        sizes: what the cache holds right after prefill, see `sizes_of`.
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
        """Feeds tokens one by one and returns the seconds of each of these steps."""
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
    """Measures the peak of a run that is not timed: prefill and two tokens, so that caches regrow.

    Arguments as `Trial`.
    """
    with PeakMemory(input_ids.device) as peak:
        Trial(subject, model, input_ids).decode(2)
    return peak


def sizes_of(cache: Any) -> dict[str, int]:
    """Measures what a cache holds.

    Returns:
        entries: entries of the prompt, over layers and stored heads. entry_bytes: bytes that these
        occupy. held: bytes that the cache holds in all.
    """
    if isinstance(cache, CompressedCache):
        return {
            "entries": int(cache.kept_tokens.sum()),
            "entry_bytes": cache.kept_bytes,
            "held": cache.nbytes,
        }
    entries = sum(layer.keys.shape[:3].numel() for layer in cache.layers)
    content = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return {"entries": entries, "entry_bytes": content, "held": dynamic_bytes(cache)}
