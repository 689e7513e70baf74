"""Loads of heads under a method's budgets, and how well each way to share them uses the ranks."""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headkv.balance.partition import best, contiguous, copied, totals
from headkv.errors import UserError


@dataclass(frozen=True)
class Share:
    """How one way to share out a model's heads uses the ranks.

    Attributes:
        method: whose budgets are the loads.
        ranks: that share every layer's heads.
        way: `contiguous`, `best`, or `best + r copies`.
        utilisation: mean load over greatest load, of all layers together: each layer waits for its
            own slowest rank.
        worst: of the worst layer alone.
        copied_entries: entries held twice or more, over all that the originals hold.
    """

    method: str
    ranks: int
    way: str
    utilisation: float
    worst: float
    copied_entries: float

    def as_row(self) -> dict[str, Any]:
        """As a line of a table."""
        return dict(vars(self))


def kept_entries(kept: str, layers: int, heads: int) -> list[list[float]]:
    """Entries of each head, `[layer][stored_head]`, of an inspection's kept positions.

    Args:
        kept: base64 of the zlib-compressed bits `[layer, stored_head, token]`.
        layers: number of compressed layers.
        heads: stored heads a layer.
    """
    raw = np.frombuffer(zlib.decompress(base64.b64decode(kept)), np.uint8)
    counts = np.unpackbits(raw.reshape(layers, heads, -1), axis=-1).sum(-1, dtype=np.int64)
    return [[float(each) for each in layer] for layer in counts]


def shares(
    method: str, loads: Sequence[Sequence[float]], ranks: int, copies: Sequence[int]
) -> list[Share]:
    """Every way to share out a model's heads over so many ranks.

    Args:
        method: whose budgets the loads are.
        loads: kept entries of each KV head, `[layer][kv_head]`.
        ranks: that share every layer's heads.
        copies: most copies of heavy heads a layer, one way each.

    Raises:
        UserError: more ranks than heads.
    """
    heads = len(loads[0])
    if not 1 <= ranks <= heads:
        raise UserError(
            f"ranks={ranks} for layers of {heads} KV heads",
            allowed=f"1 to {heads}",
            do="set ranks=",
        )
    ways = {
        "contiguous": [totals(each, contiguous(each, ranks), ranks) for each in loads],
        "best": [totals(each, best(each, ranks), ranks) for each in loads],
    }
    more = dict.fromkeys(ways, 0.0)
    whole = sum(map(sum, loads))
    for count in copies:
        held, extra = [], 0.0
        for each in loads:
            pieces = copied(each, ranks, count)
            flat = [load for parts in pieces for load in parts]
            held.append(totals(flat, best(flat, ranks), ranks))
            # Every copy holds all of the head's entries, for its part of the batch.
            extra += sum(load * (len(parts) - 1) for load, parts in zip(each, pieces, strict=True))
        name = f"best + {count} cop{'y' if count == 1 else 'ies'}"
        ways[name], more[name] = held, extra / whole
    return [
        Share(
            method,
            ranks,
            name,
            sum(map(sum, held)) / ranks / sum(map(max, held)),
            min(sum(layer) / ranks / max(layer) for layer in held),
            more[name],
        )
        for name, held in ways.items()
    ]
