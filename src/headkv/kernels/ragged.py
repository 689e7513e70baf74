"""A layer's compressed prompt: every head keeps a list of its own length, end to end in memory."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

TILE = 256  # entries of a piece of work: 128 KiB of 128-wide bfloat16, against 2 KiB of results


@dataclass(frozen=True)
class Tiles:
    """A prefix cut into pieces of at most so many entries, each of one segment.

    Attributes:
        table: int32 beside the keys, `[tile, 3]`: segment, first entry, entries.
        starts: int32 beside the keys, `[segment + 1]`: the first tile of each segment.
        whole: every segment is one tile, so that tile s is segment s.
    """

    table: Tensor
    starts: Tensor
    whole: bool

    @classmethod
    def of(cls, counts: Tensor, size: int, device: torch.device) -> "Tiles":
        """Cuts segments that lie one behind the other.

        Args:
            counts: entries of each segment, int64 `[segment]` on the CPU.
            size: most entries of a tile.
            device: of the keys.
        """
        pieces = (counts + size - 1) // size
        starts = torch.tensor([0, *pieces.cumsum(0).tolist()])
        segment = torch.arange(len(counts)).repeat_interleave(pieces)
        passed = (torch.arange(len(segment)) - starts[segment]) * size
        first = (counts.cumsum(0) - counts)[segment] + passed
        table = torch.stack([segment, first, (counts[segment] - passed).clamp(max=size)], 1)
        whole = bool((pieces == 1).all())
        return cls(table.to(device, torch.int32), starts.to(device, torch.int32), whole)


@dataclass
class Ragged:
    """Keys and values of a layer, `[entries, head_dim]`, ordered by sequence, head, position.

    Written once after prefill and never changed. A segment is the entries of one (sequence,
    stored head) pair; segment s is rows `offsets[s]` to `offsets[s + 1]`.

    Attributes:
        keys: `[entries, head_dim]`, after RoPE.
        values: `[entries, value_dim]`.
        counts: int64 on the CPU, `[batch, stored_head]`.
        bias: what is added to each entry's logit, behind the soft cap, float32 `[entries]`: the
            logarithm of how many tokens it stands for; None: nothing.
        columns: what else is known of each entry, by name, `[entries, ...]`, which kernels
            do not read. Where entries are cut again while decoding: `position`, int32.
    """

    keys: Tensor
    values: Tensor
    counts: Tensor
    bias: Tensor | None = None
    columns: dict[str, Tensor] = field(default_factory=dict)
    _bounds: list[int] = field(init=False, repr=False)
    _uniform: int | None = field(init=False, repr=False)
    # What kernels read of `counts`, beside the keys: made at first use, as few devices need it.
    _offsets: Tensor | None = field(init=False, repr=False, default=None)
    _owner: Tensor | None = field(init=False, repr=False, default=None)
    _blocks: tuple[Tensor, Tensor] | None = field(init=False, repr=False, default=None)
    _tiles: dict[int, Tiles] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        ends = self.counts.flatten().cumsum(0).tolist()
        self._bounds = [0, *ends]
        lengths = self.lengths
        self._uniform = lengths[0] if len(set(lengths)) == 1 else None

    @property
    def bounds(self) -> list[int]:
        """Where the segments start and end, `batch * stored_heads + 1` numbers."""
        return self._bounds

    @property
    def lengths(self) -> list[int]:
        """Entries of each segment."""
        return self.counts.flatten().tolist()

    @property
    def nbytes(self) -> int:
        """Bytes really held by this object's tensors, slack of their storage included."""
        held = [self.keys, self.values, self.counts, *self.columns.values()]
        held += [tensor for made in self._tiles.values() for tensor in (made.table, made.starts)]
        others = (self.bias, self._offsets, self._owner)
        held += [tensor for tensor in others if tensor is not None]
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    @property
    def entry_bytes(self) -> int:
        """What the entries themselves occupy: keys, values, biases, and what else is known."""
        sides = (self.keys, self.values, *self.columns.values())
        return sum(each.nbytes for each in sides) + (0 if self.bias is None else self.bias.nbytes)

    @property
    def row_bytes(self) -> list[int]:
        """`entry_bytes` of each sequence: all entries are of one size."""
        counts = self.counts.sum(1).tolist()
        return [self.entry_bytes * count // max(sum(counts), 1) for count in counts]

    @property
    def uniform(self) -> int | None:
        """Entries of a segment, if all have the same number."""
        return self._uniform

    @property
    def even(self) -> bool:
        """Whether every sequence has as many entries as the others."""
        totals = self.counts.sum(1)
        return bool((totals == totals[0]).all())

    @property
    def blocks(self) -> tuple[Tensor, Tensor]:
        """Views of the keys, `[segment, head_dim, entry]`, and values, of equal segments only."""
        if self._blocks is None:
            segments, length = self.counts.numel(), self._uniform
            assert length is not None
            keys = self.keys.view(segments, length, -1).mT
            self._blocks = keys, self.values.view(segments, length, -1)
        return self._blocks

    @property
    def owner(self) -> Tensor:
        """The stored head of each entry, uint8 beside the keys, `[entries]`."""
        if self._owner is None:
            heads = torch.arange(self.counts.shape[1], dtype=torch.uint8).repeat(len(self.counts))
            self._owner = heads.repeat_interleave(self.counts.flatten()).to(self.keys.device)
        return self._owner

    @property
    def offsets(self) -> Tensor:
        """`bounds` as int32 beside the keys, `[segment + 1]`."""
        if self._offsets is None:
            self._offsets = torch.tensor(self._bounds, dtype=torch.int32, device=self.keys.device)
        return self._offsets

    def tiles(self, size: int) -> Tiles:
        """Returns the work list of a kernel that takes some entries at a time, made once a size.

        Args:
            size: most entries of a tile.
        """
        if size not in self._tiles:
            self._tiles[size] = Tiles.of(self.counts.flatten(), size, self.keys.device)
        return self._tiles[size]

    @staticmethod
    def gather(keys: Tensor, values: Tensor, counts: Tensor, positions: Tensor) -> "Ragged":
        """Takes the kept entries of one sequence out of its full cache.

        Args:
            keys: `[kv_head, token, head_dim]`.
            values: `[kv_head, token, value_dim]`.
            counts: int64 `[stored_head]`; stored heads are a multiple of KV heads.
            positions: int64 `[entries]`, heads one after another.

        Returns:
            One sequence: keys `[entries, head_dim]`, counts `[1, stored_head]` on the CPU.
        """
        counts = counts.cpu()
        heads, tokens = keys.shape[:2]
        stored = torch.arange(len(counts)).repeat_interleave(counts).to(keys.device)
        head = stored // (len(counts) // heads)
        # Models make keys token by token; to flatten them head by head would copy the whole cache.
        sides = [keys, values]
        if all(side.transpose(0, 1).is_contiguous() for side in sides):
            rows = positions * heads + head
            sides = [side.transpose(0, 1) for side in sides]
        else:
            rows = head * tokens + positions
        chosen = [side.flatten(0, 1).index_select(0, rows) for side in sides]
        return Ragged(chosen[0], chosen[1], counts[None])

    @staticmethod
    def stack(parts: list["Ragged"]) -> "Ragged":
        """Joins the sequences of several caches to one batch.

        Args:
            parts: with equally many stored heads; one alone is returned as it is, not copied.
        """
        if len(parts) == 1:
            return parts[0]
        known = {name: column for part in parts for name, column in part.columns.items()}
        return Ragged(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat([part.counts for part in parts]),
            _biases(parts),
            {
                name: torch.cat([_column(p, name, like) for p in parts])
                for name, like in known.items()
            },
        )

    def select(self, rows: list[int]) -> "Ragged":
        """Returns some of the sequences as a batch of their own.

        Args:
            rows: indices of sequences, in the order wanted; one may occur several times. Tensors
                are copied unless these are all sequences in their own order.
        """
        if rows == list(range(len(self.counts))):
            return self
        heads = self.counts.shape[1]
        pieces = [slice(self._bounds[r * heads], self._bounds[(r + 1) * heads]) for r in rows]
        return Ragged(
            torch.cat([self.keys[piece] for piece in pieces]),
            torch.cat([self.values[piece] for piece in pieces]),
            self.counts[rows],
            None if self.bias is None else torch.cat([self.bias[piece] for piece in pieces]),
            {k: torch.cat([each[piece] for piece in pieces]) for k, each in self.columns.items()},
        )


def _biases(parts: list[Ragged]) -> Tensor | None:
    """The biases of several prefixes, zeros for those that have none; None if none has any."""
    if all(part.bias is None for part in parts):
        return None
    return torch.cat(
        [
            part.keys.new_zeros(len(part.keys), dtype=torch.float32)
            if part.bias is None
            else part.bias
            for part in parts
        ]
    )


def _column(part: Ragged, name: str, like: Tensor) -> Tensor:
    """A column of a part; zeros where it has none, for its sequences are not cut again."""
    known = part.columns.get(name)
    return like.new_zeros(len(part.keys), *like.shape[1:]) if known is None else known
