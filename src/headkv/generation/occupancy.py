"""What a cache holds while answers are decoded: peak and mean entries and bytes of each place."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from headkv.cache import CompressedCache


@dataclass
class Held:
    """What one place of a batch held over its answer.

    Attributes:
        peak_entries: most entries at once, over all layers and stored heads.
        peak_bytes: what those occupied.
        entries: sum over the steps.
        bytes: likewise.
        steps: tokens that were fed.
    """

    peak_entries: int = 0
    peak_bytes: int = 0
    entries: int = 0
    bytes: int = 0
    steps: int = 0

    def as_row(self) -> dict[str, int | float]:
        """Peak and mean, as a result row has them."""
        steps = max(self.steps, 1)
        return {
            "peak_entries": self.peak_entries,
            "mean_entries": round(self.entries / steps, 1),
            "peak_bytes": self.peak_bytes,
            "mean_bytes": round(self.bytes / steps, 1),
        }


class Occupancy:
    """Counts on the cache what each place holds, step by step.

    A tail counts an entry a KV head and token; what a sliding-window layer holds is counted as it
    was after the prompt. The layers are looked at when answers leave or entries were cut, as in
    between only the tails grow.

    Args:
        places: of the batch.

    Example:
        >>> answer(model, batch, stopping, occupancy=Occupancy(len(batch.logits)))
    """

    def __init__(self, places: int) -> None:
        self.held = [Held() for _ in range(places)]
        self._known: tuple[list[int], int] | None = None
        self._base: list[tuple[int, int]] = []
        self._token = 0, 0

    def note(
        self, cache: CompressedCache, alive: Sequence[int], over: Collection[int] = ()
    ) -> None:
        """Counts one step.

        Args:
            cache: as it is before the step.
            alive: the places that are left in it, in order.
            over: those of them whose answers have ended; they count no more.
        """
        tail = cache.tail_length
        if self._known is not None and tail <= self._known[1] and list(alive) == self._known[0]:
            # It was cut behind the last step, and held this before.
            self._peak(alive, cache.cut_every or 0, over)
            self._known = None
        if self._known is None or list(alive) != self._known[0]:
            self._look(cache)
        self._known = list(alive), tail
        self._peak(alive, tail, over)
        for place, (entries, size) in zip(alive, self._base, strict=True):
            if place in over:
                continue
            held = self.held[place]
            held.entries += entries + tail * self._token[0]
            held.bytes += size + tail * self._token[1]
            held.steps += 1

    def _peak(self, alive: Sequence[int], tail: int, over: Collection[int]) -> None:
        for place, (entries, size) in zip(alive, self._base, strict=True):
            held = Held() if place in over else self.held[place]
            held.peak_entries = max(held.peak_entries, entries + tail * self._token[0])
            held.peak_bytes = max(held.peak_bytes, size + tail * self._token[1])

    def _look(self, cache: CompressedCache) -> None:
        """What each place holds beside the tails, and what a token of the tails is."""
        totals: list[list[int]] = []
        token = [0, 0]
        for layer in cache.layers:
            counts, size = layer.counts.sum(1).tolist(), layer.decoding_bytes
            totals.append([*counts, *size])
            entries, per_token = layer.token_cost
            token[0] += entries
            token[1] += per_token
        summed = [sum(each) for each in zip(*totals, strict=True)]
        half = len(summed) // 2
        self._base = list(zip(summed[:half], summed[half:], strict=True))
        self._token = token[0], token[1]


def growing(entries: int, size: int, token: tuple[int, int], before: int, steps: int) -> Held:
    """What a place held whose cache only grows, a token a step.

    Args:
        entries: held of the prompt.
        size: bytes of these.
        token: entries and bytes that a token adds.
        before: tokens between the prompt and the answer.
        steps: tokens of the answer that were fed.
    """
    last, total = before + steps, steps * before + steps * (steps + 1) // 2
    return Held(
        peak_entries=entries + last * token[0],
        peak_bytes=size + last * token[1],
        entries=steps * entries + total * token[0],
        bytes=steps * size + total * token[1],
        steps=steps,
    )
