"""Entries of 8, 4 or 2 bits a number, and those that make no whole group.

A segment's entries are cut into groups, see `headkv.kernels.packed`; what is left over stays as it
is. `headkv.kernels.groups` attends over them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headkv.kernels.packed import GROUP, Packed
from headkv.kernels.ragged import Ragged


@dataclass
class Quantised:
    """A layer's entries at fewer bits, where they fill groups; what is left over stays as it is.

    Attributes:
        keys: of all groups, segment after segment.
        values: likewise.
        rest: what is left over, a list of those segments that have any: counts `[1, segment]`.
        counts: entries of each segment, int64 on the CPU, `[batch, stored_head]`.
        bias: of all entries, see `Ragged`.
        columns: of all entries, see `Ragged`.
    """

    keys: Packed
    values: Packed
    rest: Ragged | None
    counts: Tensor
    bias: Tensor | None
    columns: dict[str, Tensor]

    def __post_init__(self) -> None:
        self.groups = self.counts.flatten() // GROUP
        owner = torch.arange(len(self.groups)).repeat_interleave(self.groups)
        left = self.counts.flatten() % GROUP
        device = self.keys.codes.device
        self.owner = owner.to(device)
        self.leftover = left.nonzero()[:, 0].to(device)
        self._grouped_bias = self._bias_by_group()
        self._made: dict[str, Any] = {}

    def _bias_by_group(self) -> Tensor | None:
        if self.bias is None:
            return None
        pieces = self.bias.split(self.lengths)
        cut = [piece[: len(piece) // GROUP * GROUP].view(-1, GROUP) for piece in pieces]
        return torch.cat(cut)

    def worked_out(self, what: str, make: Callable[[], Any]) -> Any:
        """What a kernel reads of the counts, made at first use."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    @property
    def value_dim(self) -> int:
        """Width of the values."""
        return self.values.codes.shape[2] * self.values.share

    @property
    def lengths(self) -> list[int]:
        """Entries of each segment."""
        return self.counts.flatten().tolist()

    @property
    def entry_bytes(self) -> int:
        """Bytes of the entries: codes, scales, what is left over, biases and columns."""
        rest = 0 if self.rest is None else self.rest.keys.nbytes + self.rest.values.nbytes
        others = [*self.columns.values(), *([] if self.bias is None else [self.bias])]
        return self.keys.nbytes + self.values.nbytes + rest + sum(each.nbytes for each in others)

    @property
    def nbytes(self) -> int:
        """Bytes really held."""
        rest = 0 if self.rest is None else self.rest.nbytes - self.rest.entry_bytes
        return self.entry_bytes + rest + self.owner.nbytes + self.leftover.nbytes

    @property
    def row_bytes(self) -> list[int]:
        """`entry_bytes` of each sequence."""
        groups = self.groups.view_as(self.counts).sum(1).tolist()
        entries = self.counts.sum(1).tolist()
        left = [n - GROUP * g for n, g in zip(entries, groups, strict=True)]
        per_group = (self.keys.nbytes + self.values.nbytes) // max(len(self.keys.codes), 1)
        sides = () if self.rest is None else (self.rest.keys, self.rest.values)
        per_left = sum(each[:1].nbytes for each in sides)
        others = [*self.columns.values(), *([] if self.bias is None else [self.bias])]
        per_entry = sum(each[:1].nbytes for each in others)
        return [
            g * per_group + n * per_left + all_ * per_entry
            for g, n, all_ in zip(groups, left, entries, strict=True)
        ]

    @classmethod
    def of(cls, plain: Ragged, bits: int) -> "Quantised":
        """Quantises entries once.

        Args:
            plain: the entries.
            bits: 8, 4 or 2.
        """
        keys, values = plain.keys.split(plain.lengths), plain.values.split(plain.lengths)
        full = [length // GROUP * GROUP for length in plain.lengths]
        pairs = list(zip(keys, values, full, strict=True))
        left = [(key[n:], value[n:]) for key, value, n in pairs if n < len(key)]
        rest = None
        if left:
            rest = Ragged(
                torch.cat([key for key, _ in left]),
                torch.cat([value for _, value in left]),
                torch.tensor([[len(key) for key, _ in left]]),
            )
        wide, value_wide = plain.keys.shape[1], plain.values.shape[1]
        grouped = torch.cat([key[:n].view(-1, GROUP, wide) for key, _, n in pairs])
        mixed = torch.cat([value[:n].view(-1, GROUP, value_wide) for _, value, n in pairs])
        return cls(
            Packed.of(grouped, bits, by_channel=True),
            Packed.of(mixed, bits, by_channel=False),
            rest,
            plain.counts,
            plain.bias,
            plain.columns,
        )

    @staticmethod
    def stack(parts: list["Quantised"]) -> "Quantised":
        """Joins sequences of entries of the same bits."""
        rests = [each.rest for each in parts if each.rest is not None]
        rest = None
        if rests:
            rest = Ragged(
                torch.cat([each.keys for each in rests]),
                torch.cat([each.values for each in rests]),
                torch.cat([each.counts for each in rests], 1),
            )
        bias = [each.bias for each in parts if each.bias is not None]
        return Quantised(
            Packed.cat([each.keys for each in parts]),
            Packed.cat([each.values for each in parts]),
            rest,
            torch.cat([each.counts for each in parts]),
            torch.cat(bias) if bias else None,
            {k: torch.cat([each.columns[k] for each in parts]) for k in parts[0].columns},
        )

    def plain(self, dtype: torch.dtype) -> Ragged:
        """The entries as numbers again, in their order."""
        sides = []
        rest = None if self.rest is None else (self.rest.keys, self.rest.values)
        left = [length % GROUP for length in self.lengths]
        for side, packed in enumerate((self.keys, self.values)):
            whole = packed.numbers().to(dtype).flatten(0, 1)
            pieces = whole.split((self.groups * GROUP).tolist())
            others = whole[:0].split([0] * len(left)) if rest is None else rest[side].split(left)
            sides.append(torch.cat([x for pair in zip(pieces, others, strict=True) for x in pair]))
        return Ragged(sides[0], sides[1], self.counts, self.bias, dict(self.columns))

    def select(self, rows: list[int]) -> "Quantised":
        """Some of the sequences, in this order."""
        heads = self.counts.shape[1]
        segments = [row * heads + head for row in rows for head in range(heads)]
        starts = [0, *self.groups.cumsum(0).tolist()]
        picked = [n for s in segments for n in range(starts[s], starts[s + 1])]
        groups = torch.tensor(picked, dtype=torch.long, device=self.keys.codes.device)
        rest = self.rest
        if rest is not None:
            place = {s: i for i, s in enumerate(self.leftover.tolist())}
            chosen = [place[s] for s in segments if s in place]
            apart = Ragged(rest.keys, rest.values, rest.counts.T).select(chosen) if chosen else None
            rest = None if apart is None else Ragged(apart.keys, apart.values, apart.counts.T)
        bounds = [0, *self.counts.flatten().cumsum(0).tolist()]
        spans = [slice(bounds[row * heads], bounds[(row + 1) * heads]) for row in rows]
        return Quantised(
            self.keys.pick(groups),
            self.values.pick(groups),
            rest,
            self.counts[rows],
            None if self.bias is None else torch.cat([self.bias[span] for span in spans]),
            {k: torch.cat([each[span] for span in spans]) for k, each in self.columns.items()},
        )

    def rows_of(self, query: Tensor) -> Tensor:
        """The query rows that read each segment, `[segment, row, head_dim]`."""
        return query.reshape(len(self.groups), -1, query.shape[-1])

    def biased_rest(self) -> Ragged | None:
        """What is left over, with its biases."""
        if self.rest is None or self.bias is None:
            return self.rest
        pieces = self.bias.split(self.lengths)
        left = torch.cat([piece[len(piece) // GROUP * GROUP :] for piece in pieces])
        return Ragged(self.rest.keys, self.rest.values, self.rest.counts, left)

    @property
    def grouped_bias(self) -> Tensor | None:
        """Biases of the entries in groups, `[group, entry]`."""
        return self._grouped_bias
