"""Entries that live on the host and are fetched ahead, a layer at a time (HeadInfer, 2502.12574).

Exact: what is attended is a copy. While one layer is attended the next one's entries are on their
way, so at most two layers' are on the device. Either all heads of a layer are kept on the host or
the heavier half, which hold the most entries; the others then stay.
"""

from dataclasses import replace

import torch
from torch import Tensor

from headkv.kernels.packed import Packed
from headkv.kernels.quantised import Quantised
from headkv.kernels.ragged import Ragged


def moved(
    entries: Ragged | Quantised, device: torch.device, pin: bool = False
) -> Ragged | Quantised:
    """A copy of entries on a device, on its way where the device is a GPU.

    Args:
        entries: on any device.
        device: where the copy is made.
        pin: whether host memory is to be such that a GPU can copy from it meanwhile.
    """

    def copy(tensor: Tensor) -> Tensor:
        there = tensor.to(device, non_blocking=not pin)
        there = tensor.clone() if there is tensor else there
        return there.pin_memory() if pin else there

    def side(packed: Packed) -> Packed:
        codes, scale, zero = copy(packed.codes), copy(packed.scale), copy(packed.zero)
        return Packed(codes, scale, zero, packed.bits)

    bias = None if entries.bias is None else copy(entries.bias)
    columns = {name: copy(each) for name, each in entries.columns.items()}
    if isinstance(entries, Ragged):
        return Ragged(copy(entries.keys), copy(entries.values), entries.counts, bias, columns)
    rest = entries.rest
    if rest is not None:
        rest = Ragged(copy(rest.keys), copy(rest.values), rest.counts)
    keys, values = side(entries.keys), side(entries.values)
    return Quantised(keys, values, rest, entries.counts, bias, columns)


class Tier:
    """The host's part of one cache: which layers' entries are on the device, and those to come.

    Attributes:
        fetched: number of copies made from the host.
        peak_bytes: most bytes of fetched entries on the device at once.
    """

    def __init__(self) -> None:
        self.fetched, self.peak_bytes = 0, 0
        self._here: dict[Offloaded, Ragged | Quantised] = {}
        self._used: dict[int, Offloaded] = {}
        self._stream: torch.cuda.Stream | None = None

    @property
    def resident_bytes(self) -> int:
        """Bytes of fetched entries on the device now."""
        return sum(each.entry_bytes for each in self._here.values())

    def fetch(self, wanted: "Offloaded") -> Ragged | Quantised:
        """The entries of a layer, on the device; those of the next layer are sent for.

        Args:
            wanted: the layer's.
        """
        self._used[wanted.layer] = wanted
        following = self._used.get(wanted.layer + 1) or self._used[min(self._used)]
        stays = {wanted, following}
        self._here = {each: there for each, there in self._here.items() if each in stays}
        if wanted not in self._here:
            self._send(wanted)
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        if following not in self._here:
            self._send(following)
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)
        return self._here[wanted]

    def forget(self, gone: "Offloaded") -> None:
        """Frees what was fetched of entries that are replaced."""
        self._here.pop(gone, None)
        if self._used.get(gone.layer) is gone:
            del self._used[gone.layer]

    def _send(self, wanted: "Offloaded") -> None:
        self.fetched += 1
        if wanted.device.type != "cuda":
            self._here[wanted] = moved(wanted.host, wanted.device)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(wanted.device)
        # The allocator must not hand out what the main stream still reads.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._here[wanted] = moved(wanted.host, wanted.device)


class Offloaded:
    """A layer's entries of which all, or the heavier half of the heads, are on the host.

    Args:
        entries: on the device; given up.
        tier: of the cache.
        layer: index of the layer.
        by_head: whether only the heavier half of the heads goes to the host.
    """

    def __init__(
        self, entries: Ragged | Quantised, tier: Tier, layer: int, by_head: bool = False
    ) -> None:
        self.tier, self.layer, self.by_head = tier, layer, by_head
        self.counts, self.columns, self.bias = entries.counts, entries.columns, entries.bias
        side = entries.keys.codes if isinstance(entries, Quantised) else entries.keys
        self.device = side.device
        heads = self.counts.shape[1]
        order = self.counts.sum(0).argsort(descending=True, stable=True).tolist()
        heavy = sorted(order[: max(heads // 2, 1)]) if by_head and heads > 1 else range(heads)
        batch = range(len(self.counts))
        self.away = [row * heads + head for row in batch for head in heavy]
        away = set(self.away)
        self.stay = [each for each in range(self.counts.numel()) if each not in away]
        self._order = torch.tensor([*self.away, *self.stay]).argsort()
        segments: Ragged | Quantised = replace(entries, counts=entries.counts.view(-1, 1))
        pin = self.device.type == "cuda"
        host = segments.select(self.away) if self.stay else segments
        self.here = segments.select(self.stay) if self.stay else None
        self.host = moved(host, torch.device("cpu"), pin)

    @property
    def lengths(self) -> list[int]:
        """Entries of each segment."""
        return self.counts.flatten().tolist()

    @property
    def entry_bytes(self) -> int:
        """Bytes of the entries, wherever they are."""
        return self.host.entry_bytes + (0 if self.here is None else self.here.entry_bytes)

    @property
    def nbytes(self) -> int:
        """Bytes really held, wherever; what is fetched at the moment is the tier's."""
        return self.host.nbytes + (0 if self.here is None else self.here.nbytes)

    @property
    def row_bytes(self) -> list[int]:
        """`entry_bytes` of each sequence."""
        sizes = self.host.row_bytes + ([] if self.here is None else self.here.row_bytes)
        by_segment = [sizes[place] for place in self._order.tolist()]
        heads = self.counts.shape[1]
        return [sum(by_segment[first : first + heads]) for first in range(0, len(sizes), heads)]

    def parts(self) -> list[tuple[list[int], Ragged | Quantised]]:
        """Segments and their entries on the device, each segment a sequence of one head."""
        fetched = self.tier.fetch(self)
        return [(self.away, fetched)] + ([] if self.here is None else [(self.stay, self.here)])

    def joined(self, parts: list[Tensor]) -> Tensor:
        """What was worked out of each of `parts`, `[segment, ...]`, in the order of segments."""
        found = torch.cat(parts)
        return found if self.here is None else found[self._order.to(found.device)]

    def back(self) -> Ragged | Quantised:
        """The entries on the device, all heads in order, not held by the tier."""
        there = moved(self.host, self.device)
        if self.here is not None:
            joined = [there.select([i]) for i in range(len(self.away))]
            joined += [self.here.select([i]) for i in range(len(self.stay))]
            there = in_order([joined[place] for place in self._order.tolist()])
        return replace(there, counts=self.counts)

    def select(self, rows: list[int]) -> "Offloaded":
        """Some of the sequences, in this order."""
        chosen = self.back().select(rows)
        return Offloaded(chosen, self.tier, self.layer, self.by_head)


def in_order(parts: list[Ragged] | list[Quantised]) -> Ragged | Quantised:
    """Joins sequences of entries of one kind."""
    first = parts[0]
    if isinstance(first, Ragged):
        return Ragged.stack(list(parts))  # type: ignore[arg-type]  # all of one kind
    return Quantised.stack(list(parts))  # type: ignore[arg-type]
