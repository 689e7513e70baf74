"""Evidence while an answer is decoded: what a layer still holds of one sequence, to be cut again.

A scorer sees it as it sees a prompt: entries in the order of their tokens, the latest ones at the
end. Two things differ. Heads hold lists of their own, so that they are looked at one by one where
the lists are of different lengths; and of the queries only the latest are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from headkv.errors import UserError
from headkv.methods.allocators.base import LayerAllocator, ModelAllocator, Room
from headkv.methods.evidence import Evidence
from headkv.methods.method import Method, budget_table
from headkv.methods.scorers.base import Scorer
from headkv.methods.sums import causal_weights

_CHUNK = 256  # queries whose attention is formed at a time


@dataclass(eq=False)
class HeldEvidence(Evidence):
    """Lists of equal length of some stored heads, each head's own tokens.

    Attributes:
        positions: of the tokens held, int `[stored_head, token]`.
        query_positions: of the recorded queries, int64 `[query]`.
        paid: attention paid to each entry before the last `unpaid` queries came, float32
            `[query_head, token]`.
        unpaid: latest queries whose attention `paid` lacks.
    """

    positions: Tensor | None = None
    query_positions: Tensor | None = None
    paid: Tensor | None = None
    unpaid: int = 0

    @property
    def next_position(self) -> int:
        """See `Evidence`: what is held says nothing of how long the text is."""
        if self.query_positions is None:
            raise self._absent("the positions of the latest queries")
        return int(self.query_positions[-1]) + 1

    def _plain_queries(self, skip: int) -> Tensor:
        """The latest queries before RoPE, of which none are the text's first."""
        if self.unrotate is None or self.query_positions is None:
            raise self._absent("the rotation of the model's queries")
        return self.unrotate(self.queries, self.query_positions).float()

    @cached_property
    def plain_keys(self) -> Tensor:
        """See `Evidence`; every head holds tokens of its own."""
        if self.unrotate is None or self.positions is None:
            raise self._absent("the rotation of the model's keys")
        pairs = zip(self.keys, self.positions, strict=True)
        return torch.cat([self.unrotate(keys[None], places) for keys, places in pairs]).float()

    @cached_property
    def accumulated_attention(self) -> Tensor:
        """Attention that every query so far paid to each entry, those of the prompt included."""
        if self.paid is None or self.unpaid > self.queries.shape[1]:
            raise self._absent("the attention paid to each entry")
        total, past = self.paid.clone(), self.tokens - self.unpaid
        queries = self.queries[:, self.queries.shape[1] - self.unpaid :]
        for first in range(0, self.unpaid, _CHUNK):
            piece = queries[:, first : first + _CHUNK]
            end = past + first + piece.shape[1]
            absent = None if self.absent is None else self.absent[:, :end]
            keys = self.keys[:, :end]
            paid = causal_weights(piece, keys, self.logit_scaling, self.softcap, absent)
            total[:, :end] += paid.sum(dim=1)
        return total


@dataclass
class HeldLayer:
    """One layer of one sequence while decoding.

    Attributes:
        whole: the evidence of all stored heads together, where their lists are equally long.
        apart: otherwise that of each stored head.
        seen: tokens of the sequence so far.
    """

    whole: HeldEvidence | None
    apart: list[HeldEvidence]
    seen: int

    @property
    def first(self) -> HeldEvidence:
        """Evidence that says what is the same for all heads."""
        return self.whole or self.apart[0]

    @property
    def lengths(self) -> list[int]:
        """Entries of each stored head."""
        if self.whole is not None:
            return [self.whole.tokens] * self.whole.kv_heads
        return [each.tokens for each in self.apart]

    @property
    def query_heads(self) -> int:
        """Query heads of the layer."""
        return self.whole.query_heads if self.whole else sum(e.query_heads for e in self.apart)

    def scores(self, method: Method) -> Tensor:
        """The scorer's ranking, `[stored_head, candidate]`, short lists filled up with the least.

        Raises:
            UserError: it joins heads that hold lists of different lengths.
        """
        scorer = method.scorer
        assert method.kv_size is not None
        mean = method.kv_size - method.window_size
        if self.whole is not None:
            return method.scored(self.whole, self.whole.kv_heads, mean).clone()
        if scorer.across_heads:
            raise UserError(
                f"{method.name}: scorer {scorer.name} joins the heads of a layer, and they hold "
                "lists of different lengths",
                allowed="allocators that give all heads of a layer as many, such as uniform",
                do="set allocator=uniform or another scorer=",
            )
        rows = [method.scored(each, 1, mean)[0] for each in self.apart]
        least = min(float(row.min()) for row in rows)
        table = rows[0].new_full((len(rows), max(map(len, rows))), least)
        for row, scores in zip(table, rows, strict=True):
            row[: len(scores)] = scores
        return table

    def ranking(self, scorer: Scorer, scores: Tensor, counts: Tensor) -> Tensor:
        """The scorer's last word, once budgets are known, see `Scorer.ranking`."""
        if self.whole is not None:
            return scorer.ranking(self.whole, scores, counts)
        rows = []
        for row, each, count in zip(scores, self.apart, counts, strict=True):
            own = row[None, : each.candidates(scorer.window_size)]
            ranked = scorer.ranking(each, own, count[None])[0]
            rows.append(torch.cat([ranked, row[len(ranked) :]]))
        return torch.stack(rows)


def keep_held(method: Method, layers: Sequence[HeldLayer]) -> list[list[Tensor] | None]:
    """The entries that a method keeps of layers that are cut again to `decode_kv_size`.

    Ties go to the earlier token; in `corrected` the first entry of every head, the attention sink,
    stays. A head may hold fewer entries than it is given. If the allocator shares by scores, what
    is left goes to the others; a budget that follows from sizes alone is a cap.

    Args:
        method: with a `decode_kv_size`.
        layers: one, or all compressed layers if the allocator must see them all.

    Returns:
        For each layer the ascending indices of each stored head's list that stay, int64; None: all.
    """
    size = method.decode_kv_size
    assert size is not None
    if layers[0].seen <= size:
        return [None] * len(layers)
    cut = replace(method, kv_size=size, decode_kv_size=None, compress_every=None)
    scores = [layer.scores(cut) for layer in layers]
    if isinstance(cut.allocator, ModelAllocator):
        room, widest = _room(cut, layers), max(each.shape[1] for each in scores)
        wide = [
            functional.pad(each, (0, widest - each.shape[1]), value=float(each.min()))
            for each in scores
        ]
        table = cut.checked(cut.allocator.table(room, wide), room, len(layers))
        fitted = _fitted(
            table.flatten().tolist(), [n for each in layers for n in _candidates(each, cut)]
        )
        counts = list(torch.tensor(fitted).view_as(table))
    else:
        counts = [_counts(method, cut, *each) for each in zip(layers, scores, strict=True)]
    return [_choose(cut, *each) for each in zip(layers, scores, counts, strict=True)]


def _counts(method: Method, cut: Method, layer: HeldLayer, scores: Tensor) -> Tensor:
    """Candidates that each stored head keeps at most, int64 `[stored_head]`."""
    first = layer.first
    if isinstance(cut.allocator, LayerAllocator):
        room = _room(cut, [layer])
        if room.mean >= room.limit:  # all lists together are within the budget
            return torch.full((room.stored,), room.limit)
        table = cut.checked(cut.allocator.counts(room, scores)[None], room, 1)
        return torch.tensor(_fitted(table[0].tolist(), _candidates(layer, cut)))
    heads = len(layer.lengths)
    depth = cut.allocator.depth(first.layer, first.num_layers)
    shape = (depth, layer.query_heads, heads, layer.seen, 0)
    return budget_table(method, shape, cut)[first.layer] - cut.window_size


def _room(method: Method, layers: Sequence[HeldLayer]) -> Room:
    """What is shared out among some layers; evidence is shown where heads hold equally many."""
    assert method.kv_size is not None
    tail = method.window_size
    most = max(length for layer in layers for length in layer.lengths) - tail
    stored = len(layers[0].lengths)
    shown = [layer.whole for layer in layers if layer.whole is not None]
    return Room(
        len(layers),
        stored,
        method.kv_size - tail,
        most,
        tail,
        method.corrected,
        shown if len(shown) == len(layers) else (),
    )


def _candidates(layer: HeldLayer, method: Method) -> list[int]:
    """Candidates of each stored head."""
    return [length - method.window_size for length in layer.lengths]


def _fitted(counts: list[int], limits: list[int]) -> list[int]:
    """Counts within the limits; what does not fit goes evenly to those that have room, in order."""
    fitted = [min(count, limit) for count, limit in zip(counts, limits, strict=True)]
    left = min(sum(counts), sum(limits)) - sum(fitted)
    while left > 0:
        roomy = [i for i, limit in enumerate(limits) if fitted[i] < limit]
        share = max(left // len(roomy), 1)
        for i in roomy:
            more = min(share, limits[i] - fitted[i], left)
            fitted[i], left = fitted[i] + more, left - more
    return fitted


def _choose(
    method: Method, layer: HeldLayer, scores: Tensor, counts: Tensor
) -> list[Tensor] | None:
    lengths, window = layer.lengths, method.window_size
    wanted = counts.tolist()
    if all(n - window <= count for n, count in zip(lengths, wanted, strict=True)):
        return None
    if method.scorer.reranks:
        scores = layer.ranking(method.scorer, scores, counts.to(scores.device)).clone()
    if method.corrected:
        scores[:, 0] = float("inf")
    if len(set(lengths)) == len(set(wanted)) == 1:
        order = scores.sort(dim=-1, descending=True, stable=True).indices[:, : wanted[0]]
        last = torch.arange(lengths[0] - window, lengths[0], device=scores.device)
        return list(torch.cat([order.sort().values, last.expand(len(order), -1)], 1))
    kept = []
    for row, length, count in zip(scores, lengths, wanted, strict=True):
        last = torch.arange(length - window, length, device=row.device)
        best = row[: length - window].sort(descending=True, stable=True).indices[:count]
        kept.append(torch.cat([best.sort().values, last]))
    return kept
