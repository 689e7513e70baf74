"""Whatever a layer's entries are held as: attention over them, and joining them to a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headkv.kernels.dense import join_with_lse
from headkv.kernels.dispatch import attend as attend_plain
from headkv.kernels.dispatch import reads_quantised
from headkv.kernels.groups import attend_groups
from headkv.kernels.offloaded import Offloaded, Tier, in_order
from headkv.kernels.quantised import Quantised
from headkv.kernels.ragged import Ragged
from headkv.kernels.tiled import Tiled
from headkv.kernels.tiled import stack as stack_plain


@dataclass
class Mixed:
    """Sequences whose entries are held in several ways.

    Attributes:
        parts: each of some consecutive sequences.
    """

    parts: list["Ragged | Tiled | Quantised | Offloaded"]

    def __post_init__(self) -> None:
        self.counts = torch.cat([part.counts for part in self.parts])

    @property
    def lengths(self) -> list[int]:
        """Entries of each segment."""
        return self.counts.flatten().tolist()

    @property
    def entry_bytes(self) -> int:
        """Bytes of the entries."""
        return sum(part.entry_bytes for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes really held."""
        return sum(part.nbytes for part in self.parts)

    @property
    def row_bytes(self) -> list[int]:
        """`entry_bytes` of each sequence."""
        return [size for part in self.parts for size in part.row_bytes]

    def select(self, rows: list[int]) -> "Prefix":
        """Some of the sequences, in this order."""
        place = [(part, row) for part in self.parts for row in range(len(part.counts))]
        runs: list[tuple[Ragged | Tiled | Quantised | Offloaded, list[int]]] = []
        for part, row in (place[row] for row in rows):
            if runs and runs[-1][0] is part:
                runs[-1][1].append(row)
            else:
                runs.append((part, [row]))
        return stack([part.select(own) for part, own in runs])


Prefix = Ragged | Tiled | Quantised | Offloaded | Mixed


def stack(parts: list[Prefix]) -> Prefix:
    """Joins the sequences of several caches to one batch.

    Args:
        parts: with equally many stored heads.
    """
    if all(isinstance(part, Ragged) for part in parts):
        ragged = [part for part in parts if isinstance(part, Ragged)]
        again = any(part.columns for part in ragged)  # to be cut while decoding
        return Ragged.stack(ragged) if again else stack_plain(ragged)
    flat = [each for part in parts for each in (part.parts if isinstance(part, Mixed) else [part])]
    return flat[0] if len(flat) == 1 else Mixed(flat)


def stored(
    entries: Ragged, bits: int, offload: str | None = None, tier: Tier | None = None, layer: int = 0
) -> Prefix:
    """Entries as a method holds them.

    Args:
        entries: as the model made them.
        bits: of a number; 16 leaves it.
        offload: `layers` or `heads`, see `headkv.kernels.offloaded`; None: nothing.
        tier: the host's part of the cache.
        layer: index of the layer.
    """
    held = entries if bits == 16 else Quantised.of(entries, bits)
    if offload is None or tier is None:
        return held
    return Offloaded(held, tier, layer, offload == "heads")


def plain(prefix: Prefix, dtype: torch.dtype) -> Ragged:
    """The entries as numbers on the device, whatever they are held as."""
    if isinstance(prefix, Mixed):
        return Ragged.stack([plain(part, dtype) for part in prefix.parts])
    assert not isinstance(prefix, Tiled), "tiles are of caches that are not cut again"
    held = prefix.back() if isinstance(prefix, Offloaded) else prefix
    return held.plain(dtype) if isinstance(held, Quantised) else held


def attend(
    query: Tensor,
    prefix: Prefix,
    scaling: float,
    softcap: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over entries however they are held; see `headkv.kernels.dispatch.attend`.

    Raises:
        UserError: the named backend is unknown or cannot serve this call.
    """
    if isinstance(prefix, Ragged | Tiled):
        return attend_plain(query, prefix, scaling, softcap, backend)
    batch, heads, length, width = query.shape
    if isinstance(prefix, Quantised):
        return _quantised(query, prefix, scaling, softcap, backend)
    found = []
    if isinstance(prefix, Mixed):
        first = 0
        for part in prefix.parts:
            last = first + len(part.counts)
            found.append(attend(query[first:last], part, scaling, softcap, backend))
            first = last
        return torch.cat([each for each, _ in found]), torch.cat([lse for _, lse in found])
    rows = query.reshape(prefix.counts.numel(), -1, length, width)  # a segment is a sequence
    for segments, entries in prefix.parts():
        found.append(attend(rows[segments], entries, scaling, softcap, backend))
    output, lse = (prefix.joined([each[side] for each in found]) for side in (0, 1))
    return output.reshape(batch, heads, length, -1), lse.reshape(batch, heads, length)


def _quantised(
    query: Tensor, prefix: Quantised, scaling: float, softcap: float | None, backend: str | None
) -> tuple[Tensor, Tensor]:
    """What is in groups, and what is left over, joined exactly."""
    rows = prefix.rows_of(query)
    if len(prefix.owner):
        if reads_quantised(query, backend) == "triton":
            from headkv.kernels.triton_quantised import attend_groups as in_triton

            output, lse = in_triton(query, prefix, scaling, softcap)
        else:
            output, lse = attend_groups(query, prefix, scaling, softcap)
    else:
        output = rows.new_zeros(*rows.shape[:2], prefix.value_dim, dtype=torch.float32)
        lse = rows.new_full(rows.shape[:2], float("-inf"), dtype=torch.float32)
    rest = prefix.biased_rest()
    if rest is not None:
        # What is left of all sequences is one of as many heads; a segment's rows are its queries.
        place = prefix.leftover
        left = attend_plain(rows[place][None], rest, scaling, softcap, backend)
        joined, total = join_with_lse((output[place][None], lse[place][None]), left)
        output, lse = output.index_copy(0, place, joined[0]), lse.index_copy(0, place, total[0])
    return output.to(query.dtype).reshape(*query.shape[:3], -1), lse.reshape(query.shape[:3])


__all__ = ["Mixed", "Prefix", "attend", "in_order", "plain", "stack", "stored"]
