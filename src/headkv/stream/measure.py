"""Reads texts through a bounded cache and notes how likely each next token was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headkv.generation.batch import start
from headkv.generation.occupancy import Held, growing
from headkv.generation.prefill import prefill
from headkv.methods.method import Method

PIECE = 64  # tokens of the full cache at a time


@dataclass(frozen=True)
class Reading:
    """What came of one text.

    Attributes:
        losses: negative log-probability of every token behind the prefill, nats, float64.
        held: entries and bytes over these tokens.
    """

    losses: Tensor
    held: Held


def read(model: Any, ids: Tensor, first: int, method: Method) -> list[Reading]:
    """Reads texts of one length together.

    The first tokens are prefilled and compressed, the others fed in pieces that end where the
    cache is cut: a token sees what one fed alone would.

    Args:
        model: loaded with `attn_implementation="headkv"`.
        ids: token ids, int64 `[text, token]`.
        first: tokens to prefill.
        method: with a `decode_kv_size`, or the full cache.
    """
    prefilled = prefill(model, {"input_ids": ids[:, :first]}, methods=[method])
    cache = prefilled.compress(method)
    batch = start(model, prefilled, [cache])
    losses = [_losses(prefilled.logits[:, None], ids[:, first : first + 1])]
    held = [Held() for _ in ids]
    place = first
    while place < ids.shape[1] - 1:
        room = cache.until_cut
        end = min(place + (PIECE if room is None else room), ids.shape[1] - 1)
        _count(held, cache, end - place)
        logits = batch.feed(model, ids[:, place:end])
        losses.append(_losses(logits, ids[:, place + 1 : end + 1]))
        place = end
    joined = torch.cat(losses, 1)
    return [Reading(row, each) for row, each in zip(joined, held, strict=True)]


def _losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Negative log-probability of tokens, float64 `[text, token]`."""
    logs = logits.float().log_softmax(-1)
    return -logs.gather(-1, ids[..., None])[..., 0].double().cpu()


def _count(held: Sequence[Held], cache: Any, steps: int) -> None:
    """Adds what is held while some tokens are fed, before the cache is cut again."""
    entries = torch.stack([layer.counts.sum(1) for layer in cache.layers]).sum(0).tolist()
    sizes = [
        sum(each) for each in zip(*(layer.decoding_bytes for layer in cache.layers), strict=True)
    ]
    costs = [layer.token_cost for layer in cache.layers]
    token = sum(count for count, _ in costs), sum(size for _, size in costs)
    for total, count, size in zip(held, entries, sizes, strict=True):
        more = growing(count, size, token, cache.tail_length, steps)
        total.peak_entries = max(total.peak_entries, more.peak_entries)
        total.peak_bytes = max(total.peak_bytes, more.peak_bytes)
        total.entries, total.bytes = total.entries + more.entries, total.bytes + more.bytes
        total.steps += more.steps
