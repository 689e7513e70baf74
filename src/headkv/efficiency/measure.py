"""One prompt under one cache: what each forward pass takes, in seconds and in bytes.

Knows torch and nothing else, not even headkv: `bench/peer_kvpress.py` loads this very file in
kvpress's own environment, so that both sides of a comparison are measured by the same lines.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor


class Clock:
    """Marks in time: on the GPU's own stream where there is one, so that nothing waits for them.

    Args:
        device: the device that does the work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def settle(self) -> None:
        """Waits until nothing is running on the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        """Returns the present: a number of seconds, or a CUDA event."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, first: Any, last: Any) -> float:
        """Returns the seconds from one mark to another; waits for the later one."""
        if self.device.type != "cuda":
            return float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000


class Spans:
    """Adds up what the calls of some methods take.

    Args:
        clock: the clock of the device.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._marks: list[tuple[Any, Any]] = []

    @contextmanager
    def watch(self, objects: Iterable[Any], method: str) -> Iterator[None]:
        """Times the calls of a method of these objects while the block runs.

        Args:
            objects: the objects; each gets a timed method of its own, which is taken away again
                at the end: left there, it would keep the object, and what it holds, from being
                freed.
            method: the method's name.
        """
        watched = list(objects)
        for each in watched:
            setattr(each, method, self._timed(getattr(each, method)))
        try:
            yield
        finally:
            for each in watched:
                delattr(each, method)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            first = self.clock.mark()
            result = function(*args, **kwargs)
            self._marks.append((first, self.clock.mark()))
            return result

        return timed

    @property
    def seconds(self) -> float:
        """Seconds of all calls so far."""
        return sum(self.clock.seconds(first, last) for first, last in self._marks)


class Run:
    """A prompt prefilled into a cache, then answered greedily, every forward pass timed.

    The stock path: the cache is handed to the model as any other, so memory is freed when the
    cache frees it. No step waits for the one before on a GPU, as no token is read back.

    Args:
        model: a causal language model of transformers.
        cache: an empty cache.
        input_ids: the prompt, `[batch, token]`, no padding.
    """

    def __init__(self, model: Any, cache: Any, input_ids: Tensor) -> None:
        self.model, self.cache = model, cache
        self.clock = Clock(input_ids.device)
        self._next, self._position = input_ids, 0

    def prefill(self) -> float:
        """Feeds the prompt and returns the seconds to the first token, compression included."""
        self.clock.settle()
        first = self.clock.mark()
        self._forward()
        return self.clock.seconds(first, self.clock.mark())

    def decode(self, steps: int) -> list[float]:
        """Feeds tokens one by one and returns the seconds of each of these steps."""
        self.clock.settle()
        marks = [self.clock.mark()]
        for _ in range(steps):
            self._forward()
            marks.append(self.clock.mark())
        self.clock.settle()
        return [self.clock.seconds(first, last) for first, last in pairwise(marks)]

    def _forward(self) -> None:
        length = self._next.shape[1]
        positions = torch.arange(
            self._position, self._position + length, device=self._next.device
        ).expand(self._next.shape[0], -1)
        with torch.no_grad():
            logits = self.model(
                input_ids=self._next,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        self._next = logits[:, -1].argmax(-1, keepdim=True)
        self._position += length


class PeakMemory:
    """Most bytes of tensors alive at once inside the `with` block, beyond those at its start.

    On CUDA the allocator's own record, at no cost. On the CPU every allocation and release of
    PyTorch's allocator is logged by its profiler and added up: the same quantity, exact and the
    same in every run, where the process's resident size would mostly show what the C library
    keeps for later. Logging takes time, so blocks that are timed should not be in one of these.

    Args:
        device: the device whose memory is measured.

    Attributes:
        bytes: the result, once the block has ended.
        instrument: what measured it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self.instrument = "CUDA allocator" if device.type == "cuda" else "PyTorch profiler"
        self._before = 0
        self._profiler: Any = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes a line to stderr
            self._profiler = torch.autograd.profiler.profile(profile_memory=True)
            self._profiler.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._profiler.__exit__(*problem)
        events = self._profiler.kineto_results.events()
        changes = [(each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]"]
        alive = 0
        for _, change in sorted(changes, key=lambda pair: pair[0]):
            alive += change
            self.bytes = max(self.bytes, alive)


def dynamic_bytes(cache: Any) -> int:
    """Returns the bytes a `DynamicCache` holds, what its storage has to spare included."""
    sides = [side for layer in cache.layers for side in (layer.keys, layer.values)]
    return sum(side.untyped_storage().nbytes() for side in sides)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and greatest of some values, to five digits."""
    found = {"median": median(values), "min": min(values), "max": max(values)}
    return {key: float(f"{value:.5g}") for key, value in found.items()}
