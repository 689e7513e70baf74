"""The middle of the prompt is halved by signs that balance it (BalanceKV, arXiv 2502.07861).

A kept entry stands for many: its logit gets the logarithm of how many, its value the share that it
was given in the walk.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headkv.kernels.ragged import Ragged
from headkv.methods.entries.base import Entries
from headkv.methods.evidence import Evidence
from headkv.methods.kept import Kept
from headkv.methods.part import Count

_MOST = 300.0  # of an exponent: float64 ends at 709, and imbalances are added up
# Blocks, and tokens of each, whose similarities are worked out at once: they stay in a CPU's cache.
_TOGETHER, _SLAB = 16, 32


@dataclass(frozen=True, eq=False)
class BalanceEntries(Entries):
    """First and latest tokens verbatim; the middle halved until it fits.

    The allocator says how many entries a head keeps, the scorer has no say. The paper fixes the
    number of halvings; here it is the least that fits, `ceil(log2(middle / room))`, and the latest
    tokens take what the halved middle leaves, so that `kv_size` is met exactly (ours).

    Attributes:
        sinks: first tokens that stay as they are (32 as published).
        block: tokens whose signs are balanced against each other.
        gamma: how strongly imbalance decides a sign.
        temperature: of the keys' similarity.
        beta: taken off its exponent.
        constant: added to the product of values.
        seed: of the coin tosses.
    """

    name = "balance"
    gathers = False

    sinks: Annotated[int, Field(ge=0)] = 32
    block: Count = 128
    gamma: Annotated[float, Field(ge=0)] = 4.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    beta: float = 0.0
    constant: float = 0.025
    seed: Annotated[int, Field(ge=0)] = 42

    def choose(self, evidence: Evidence, kept: Kept, tail: int) -> Kept:
        """See `Entries`."""
        heads: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(kept.counts)
        counts = kept.counts.tolist()
        for count in set(counts):
            places = [head for head, each in enumerate(counts) if each == count]
            for head, part in zip(places, self._heads(evidence, places, counts, tail), strict=True):
                heads[head] = part
        parts = [torch.cat(each) for each in zip(*(h for h in heads if h), strict=True)]
        return replace(kept, positions=parts[0], factors=parts[1], biases=parts[2])

    def _heads(
        self, evidence: Evidence, places: list[int], counts: list[int], tail: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Positions, factors and biases of stored heads that keep equally many."""
        assert evidence.values is not None
        count, tokens, device = counts[places[0]], evidence.tokens, evidence.keys.device
        sinks = min(self.sinks, count - tail)
        middle, room = tokens - sinks - tail, count - sinks - tail
        rounds = 0
        while middle > room << rounds and room > 0:
            rounds += 1
        recent = 0
        while room > 0 and recent + ((middle - recent) >> rounds) < room:
            recent += 1
        end = sinks + middle - recent if room > 0 else sinks
        own = [place // (len(counts) // evidence.kv_heads) for place in places]
        order = torch.arange(sinks, end, device=device).repeat(len(own), 1)
        weights = torch.ones(order.shape, dtype=torch.float64, device=device)
        coins = [self._coins(evidence.layer, head) for head in own]
        for _ in range(rounds):
            drawn = torch.stack([self._draw(each, order.shape[1]) for each in coins]).to(device)
            keys, values = (
                _rows(side, own, order, drawn.shape[1]) for side in (evidence.keys, evidence.values)
            )
            values[:, : order.shape[1]] *= weights[:, :, None]
            factors = self._halve(keys, values, drawn, order.shape[1])
            best = factors.argsort(dim=1, descending=True, stable=True)[:, : order.shape[1] // 2]
            order, weights = order.gather(1, best), (weights * factors).gather(1, best)
        late = torch.arange(tokens - tail - (recent if room > 0 else 0), tokens, device=device)
        parts = []
        for chosen, weight in zip(order, weights, strict=True):
            row, place = chosen.sort()
            early = torch.arange(sinks, device=device)
            lengths = len(early), len(row), len(late)
            positions = torch.cat([early, row, late])
            factor = torch.ones(len(positions), device=device)
            factor[lengths[0] : lengths[0] + lengths[1]] = weight[place].float() / 2**rounds
            bias = torch.zeros(len(positions), device=device)
            bias[lengths[0] : lengths[0] + lengths[1]] = rounds * math.log(2)
            parts.append((positions, factor, bias))
        return parts

    def _coins(self, layer: int, head: int) -> torch.Generator:
        """The same for a head whatever the other heads keep, on any device."""
        return torch.Generator().manual_seed((self.seed * 1009 + layer) * 1009 + head)

    def _draw(self, coins: torch.Generator, tokens: int) -> Tensor:
        padded = -(-tokens // self.block) * self.block
        return torch.rand(padded, generator=coins, dtype=torch.float64)

    def _halve(self, keys: Tensor, values: Tensor, drawn: Tensor, tokens: int) -> Tensor:
        """One halving.

        Args:
            keys: float64 `[head, padded token, head_dim]`, 0 behind the last token.
            values: likewise, times the weights so far.
            drawn: evenly from 0 to 1, `[head, padded token]`.
            tokens: without padding.

        Returns:
            0 for tokens that go, 2 or 1 for those that stay, `[head, token]`.
        """
        kernel = self._kernel(
            keys.view(-1, self.block, keys.shape[2]), values.view(-1, self.block, values.shape[2])
        )
        room = (0.5 - drawn.view(-1, self.block)).T.contiguous()
        # Signs turned over: an imbalance that is not below the room, 0 included, makes a +1 here.
        turned = -torch.ones_like(room.T, memory_format=torch.contiguous_format)
        one = room.new_ones(())
        for place in range(1, self.block):
            imbalance = (kernel[place, :, :place] * turned[:, :place]).sum(dim=1)
            torch.copysign(one, imbalance.neg_().sub_(room[place]), out=turned[:, place])
        signs = -turned.view(len(keys), -1)[:, :tokens]
        half = tokens // 2
        # Where each sign has been seen half the time; 0 if it never was.
        reached = [((signs == sign).cumsum(1) == half).int().argmax(dim=1) for sign in (1, -1)]
        later = torch.maximum(*reached)[:, None]
        other = signs != signs.gather(1, later)
        ranks = torch.arange(tokens, device=signs.device)
        return torch.where(ranks > later, 1.0, 2.0 * other)

    def _kernel(self, keys: Tensor, values: Tensor) -> Tensor:
        """How alike each token of a block is to those before it, times gamma.

        Args:
            keys: `[block, token, head_dim]`.
            values: `[block, token, value_dim]`.

        Returns:
            `[token, block, earlier token]`; what stands at a token's own place and later ones is
            not worked out.
        """
        count, size, dim = keys.shape
        kernel = keys.new_empty(size, count, size)
        scale = self.temperature / dim**0.5
        for first in range(0, count, _TOGETHER):
            some = slice(first, first + _TOGETHER)
            centred, mine = keys[some] - keys[some].mean(dim=1, keepdim=True), values[some]
            for low in range(0, size, _SLAB):
                rows, end = slice(low, low + _SLAB), min(low + _SLAB, size)
                alike = (centred[:, rows] @ centred[:, :end].mT).mul_(scale).sub_(self.beta)
                both = (mine[:, rows] @ mine[:, :end].mT).add_(1e-8 + self.constant)
                alike = alike.clamp_(max=_MOST).exp_().mul_(both).mul_(self.gamma)
                kernel[rows, some, :end] = alike.transpose(0, 1)
        return kernel

    def gather(self, evidence: Evidence, kept: Kept) -> Ragged:
        """See `Entries`; values are rewritten and every entry has a bias, of four bytes."""
        ragged = super().gather(evidence, kept)
        if kept.factors is None:
            return ragged
        values = (ragged.values.float() * kept.factors[:, None]).to(ragged.values.dtype)
        return Ragged(ragged.keys, values, ragged.counts, kept.biases)


def _rows(states: Tensor, heads: list[int], order: Tensor, padded: int) -> Tensor:
    """Some tokens of some heads, float64 `[head, padded token, dim]`, zeros behind them."""
    shape = (len(heads), padded, states.shape[2])
    rows = torch.empty(shape, dtype=torch.float64, device=states.device)
    rows[:, order.shape[1] :] = 0
    for row, head, places in zip(rows, heads, order, strict=True):
        row[: len(places)] = states[head].index_select(0, places)
    return rows
