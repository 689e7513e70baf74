"""Compression while decoding: a layer's tail joins its entries, and every head is cut again.

Every `compress_every` tokens the tail and the entries become one list a head, of which each
sequence's method keeps `decode_kv_size` in the mean. Scorers see the latest queries, of which a
ring is held; entries carry their tokens' positions. Between two cuts nothing is copied.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from headkv.cache.layer_prompt import PAID, POSITION, LayerPrompt
from headkv.errors import UserError
from headkv.kernels.ragged import Ragged
from headkv.methods.held import HeldEvidence, HeldLayer, keep_held
from headkv.methods.method import Method


class Cutter:
    """What one layer needs to cut its sequences again; methods may differ by sequence.

    Args:
        prompt: the layer's prompt.
        method: of its sequences.
    """

    def __init__(self, prompt: LayerPrompt, method: Method) -> None:
        self.methods, self.padding = [method] * len(prompt.padding), list(prompt.padding)
        self.layer, self.num_layers = prompt.layer, prompt.num_layers
        self.scaling, self.softcap, self.parts = prompt.scaling, prompt.softcap, prompt.parts
        self.query_heads = prompt.queries.shape[1]
        self._query_bytes = prompt.queries[:1, :, :1].nbytes
        self.every = method.compress_every or 0
        self._queries: Tensor | None = None  # [batch, query_head, ring, head_dim]
        self._noted = 0  # queries since the last cut; the next one's place is this modulo the ring

    def fork(self) -> Self:
        """The same in another object: what is noted in one is not seen by the other."""
        other = copy.copy(self)
        other._queries = None if self._queries is None else self._queries.clone()
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of the recent queries."""
        return 0 if self._queries is None else self._queries.untyped_storage().nbytes()

    @property
    def row_bytes(self) -> list[int]:
        """Bytes of the recent queries that each sequence's own method needs."""
        needed = [
            0
            if each.compress_every is None
            else max(each.window_size, each.compress_every if each.needs_every_query else 0)
            for each in self.methods
        ]
        return [self._query_bytes * queries for queries in needed]

    @property
    def reads_all(self) -> bool:
        """Whether some method reads every query since the last cut, not the window's alone."""
        return any(each.compress_every and each.needs_every_query for each in self.methods)

    def select(self, rows: list[int]) -> None:
        """Keeps these sequences, in this order."""
        self.methods = [self.methods[row] for row in rows]
        self.padding = [self.padding[row] for row in rows]
        if self._queries is not None:
            self._queries = self._queries[rows]

    def extend(self, others: Sequence["Cutter"]) -> None:
        """Takes over the sequences of other caches; nothing was decoded yet.

        Raises:
            UserError: they are to be cut after other numbers of tokens.
        """
        every = {each.every for each in (self, *others) if each.every}
        if len(every) > 1:
            raise UserError(
                f"caches that are cut every {' and '.join(map(str, sorted(every)))} tokens in one "
                "batch",
                allowed="one compress_every a batch",
                do="decode them apart",
            )
        self.every = next(iter(every), 0)
        for other in others:
            self.methods += other.methods
            self.padding += other.padding

    def note(self, query: Tensor) -> None:
        """Takes in the latest queries, `[batch, query_head, query, head_dim]`."""
        batch, heads, count, width = query.shape
        if self._queries is None:
            window = max(each.window_size for each in self.methods)
            size = max(window, self.every) if self.reads_all else window
            self._queries = query.new_empty(batch, heads, size, width)
        size = self._queries.shape[2]
        if count == 1 and (self._noted < size or not self.reads_all):
            self._queries[:, :, self._noted % size] = query[:, :, 0]
        else:
            ordered = torch.cat([self.recent(), query], 2)
            size = max(size, ordered.shape[2]) if self.reads_all else size
            ordered = ordered[:, :, -size:]
            grown = query.new_empty(batch, heads, size, width)
            first = self._noted + count - ordered.shape[2]
            places = torch.arange(first, self._noted + count, device=query.device) % size
            self._queries = grown.index_copy_(2, places, ordered)
        self._noted += count

    def recent(self) -> Tensor:
        """The latest queries, oldest first."""
        assert self._queries is not None
        size = self._queries.shape[2]
        if self._noted <= size:
            return self._queries[:, :, : self._noted]
        return self._queries.roll(-(self._noted % size), 2)

    def forget_queries(self) -> None:
        """Begins anew after a cut: until the next one, enough others come."""
        self._queries, self._noted = None, 0


def not_cut_again(what: str) -> UserError:
    """The refusal of what a cache cannot do that is cut while decoding."""
    return UserError(
        f"{what} with decode_kv_size: such a cache is cut while decoding",
        allowed="methods without decode_kv_size",
        do="leave decode_kv_size= out",
    )


def join_cutters(cutters: Sequence[Cutter | None]) -> Cutter | None:
    """The cutter of all sequences of a batch; None if none of them is cut.

    Raises:
        UserError: some are cut, and of others it is not known what that takes.
    """
    known = [each for each in cutters if each is not None]
    if len(known) < len(cutters):
        if any(each.every for each in known):
            raise not_cut_again("a batch with contexts that were compressed for tasks")
        return None
    first, *others = known
    first.extend(others)
    return first


class Joined:
    """One sequence of one layer with its tail: every head's entries and the tail behind them.

    Args:
        prefix: the layer's entries, of all sequences.
        cutter: of the layer.
        row: which sequence.
        tail: its keys and values since the last cut, `[kv_head, token, ...]`.
        seen: tokens of the layer so far, padding included.
    """

    def __init__(
        self,
        prefix: Ragged,
        cutter: Cutter,
        row: int,
        tail: tuple[Tensor, Tensor],
        seen: int,
    ) -> None:
        self.cutter, self.row = cutter, row
        stored, count = prefix.counts.shape[1], tail[0].shape[1]
        self.counts = prefix.counts[row] + count
        bounds = prefix.bounds[row * stored : (row + 1) * stored + 1]
        self.seen = seen - cutter.padding[row]

        def joined(entries: Tensor, new: Tensor) -> Tensor:
            """`[entries, ...]` and `[stored_head or 1, token, ...]`, head by head."""
            pieces = []
            for head in range(stored):
                pieces.append(entries[bounds[head] : bounds[head + 1]])
                pieces.append(new[head // (stored // len(new))])
            return torch.cat(pieces)

        latest = torch.arange(self.seen - count, self.seen, device=tail[0].device)
        self.keys, self.values = joined(prefix.keys, tail[0]), joined(prefix.values, tail[1])
        bias, self.bias = prefix.bias, None
        if bias is not None:
            self.bias = joined(bias, bias.new_zeros(1, count))
        self.columns = {}
        if POSITION in prefix.columns:
            column = prefix.columns[POSITION]
            self.columns[POSITION] = joined(column, latest[None].to(column.dtype))
        self._paid = prefix.columns.get(PAID)
        if self._paid is not None:
            nothing = self._paid.new_zeros(1, count, self._paid.shape[1])
            self.columns[PAID] = joined(self._paid, nothing)
        self.bounds = [0, *self.counts.cumsum(0).tolist()]
        self._tail = count

    def held(self) -> HeldLayer:
        """What a method sees of it."""
        stored, lengths = len(self.counts), self.counts.tolist()
        together = len(set(lengths)) == 1
        pieces = [(0, stored)] if together else [(head, head + 1) for head in range(stored)]
        seen = [self._evidence(first, last) for first, last in pieces]
        self.evidence = seen
        return HeldLayer(seen[0] if together else None, [] if together else seen, self.seen)

    def _evidence(self, first: int, last: int) -> HeldEvidence:
        cutter, heads = self.cutter, last - first
        group = cutter.query_heads // len(self.counts)
        own = slice(first * group, last * group)
        span = slice(self.bounds[first], self.bounds[last])
        queries = cutter.recent()[self.row, own]
        parts, paid = cutter.parts, self.columns.get(PAID)
        return HeldEvidence(
            queries,
            self.keys[span].unflatten(0, (heads, -1)),
            cutter.layer,
            self.values[span].unflatten(0, (heads, -1)),
            cutter.num_layers,
            0,
            cutter.scaling,
            cutter.softcap,
            unrotate=None if parts is None else parts.unrotate,
            mean_rotation=None if parts is None else parts.mean_rotation,
            project=None if parts is None else lambda: parts.output_projection()[own],
            positions=self.columns[POSITION][span].view(heads, -1),
            query_positions=torch.arange(
                self.seen - queries.shape[1], self.seen, device=queries.device
            ),
            paid=None
            if paid is None
            else paid[span].unflatten(0, (heads, -1)).transpose(1, 2).flatten(0, 1),
            unpaid=0 if paid is None else self._tail,
        )

    def cut(self, kept: list[Tensor] | None) -> Ragged:
        """The entries that stay, one sequence.

        Args:
            kept: indices of each stored head's list; None: all.
        """
        if PAID in self.columns and self.cutter.methods[self.row].compress_every:
            rows = [
                each.accumulated_attention.unflatten(0, (each.kv_heads, -1))
                .transpose(1, 2)
                .flatten(0, 1)
                for each in self.evidence
            ]
            self.columns[PAID] = torch.cat(rows)
        if kept is None:
            return Ragged(self.keys, self.values, self.counts[None], self.bias, self.columns)
        index = torch.cat([each + start for each, start in zip(kept, self.bounds, strict=False)])
        return Ragged(
            self.keys.index_select(0, index),
            self.values.index_select(0, index),
            torch.tensor([[len(each) for each in kept]]),
            None if self.bias is None else self.bias.index_select(0, index),
            {name: each.index_select(0, index) for name, each in self.columns.items()},
        )


def cut_layers(layers: Sequence[list[Joined]]) -> list[list[Ragged]]:
    """Cuts every sequence of some layers by its own method.

    Args:
        layers: of each layer its sequences; one layer, or all that are compressed if a method's
            allocator must see them all.

    Returns:
        For each layer what stays of each sequence.
    """
    found: list[list[Ragged]] = [[] for _ in layers]
    with torch.no_grad():
        for row, first in enumerate(layers[0]):
            method = first.cutter.methods[row]
            joined = [layer[row] for layer in layers]
            if method.decode_kv_size is None:
                kept: list[list[Tensor] | None] = [None] * len(layers)
            else:
                kept = keep_held(method, [each.held() for each in joined])
            for part, each, chosen in zip(found, joined, kept, strict=True):
                part.append(each.cut(chosen))
    return found
