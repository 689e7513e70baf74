"""Sharing a layer's heads out over ranks: whole heads, and heads that several ranks have a copy of.

A layer waits for its slowest rank, so what counts is the greatest load. What FairKV's abstract
(arXiv 2502.15804) tells of its assignment and copies is not enough to rebuild them; the objective,
the search and the rule for copies here are this project's own.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace

EXACT = 12  # heads up to which every assignment worth looking at is
_ROUNDING = 1e-9


def contiguous(loads: Sequence[float], ranks: int) -> list[int]:
    """The rank of each head where ranks take equal runs of heads, as tensor parallelism has it."""
    return [head * ranks // len(loads) for head in range(len(loads))]


def longest_first(loads: Sequence[float], ranks: int) -> list[int]:
    """The rank of each head: heaviest first, each to the rank with the least so far."""
    heap = [(0.0, rank) for rank in range(ranks)]
    heapify(heap)
    found = [0] * len(loads)
    for head in sorted(range(len(loads)), key=lambda head: -loads[head]):
        load, rank = heap[0]
        found[head] = rank
        heapreplace(heap, (load + loads[head], rank))
    return found


def best(loads: Sequence[float], ranks: int) -> list[int]:
    """The rank of each head with the least greatest load: exact up to `EXACT` heads.

    Branch and bound, heaviest head first; empty ranks are alike, so one of them is tried. With more
    heads, `longest_first`, whose greatest load is at most 4/3 of the best.
    """
    found = longest_first(loads, ranks)
    if len(loads) > EXACT:
        return found
    order = sorted(range(len(loads)), key=lambda head: -loads[head])
    least, floor = max(totals(loads, found, ranks)), sum(loads) / ranks
    held, chosen = [0.0] * ranks, [0] * len(loads)

    def place(index: int) -> None:
        nonlocal least, found
        if least <= floor * (1 + _ROUNDING):
            return
        if index == len(order):
            least, found = max(held), chosen.copy()
            return
        head, tried = order[index], set()
        for rank in range(ranks):
            load = held[rank] + loads[head]
            if held[rank] in tried or load >= least * (1 - _ROUNDING):
                continue
            tried.add(held[rank])
            before, held[rank], chosen[head] = held[rank], load, rank
            place(index + 1)
            held[rank] = before

    place(0)
    return found


def copied(loads: Sequence[float], ranks: int, copies: int) -> list[list[float]]:
    """Loads of the pieces where some heads are copied, each copy serving a part of the batch.

    One copy at a time goes to the head that then lowers the greatest load most, if any does.

    Args:
        loads: of the heads.
        ranks: over which they are shared.
        copies: most copies beside the originals.

    Returns:
        For each head its pieces' loads, `load / n` for n of them.
    """
    pieces = [1] * len(loads)

    def greatest() -> float:
        flat = [load / n for load, n in zip(loads, pieces, strict=True) for _ in range(n)]
        return max(totals(flat, best(flat, ranks), ranks))

    now = greatest()
    for _ in range(copies):
        tries = {}
        for head in range(len(loads)):
            if pieces[head] < ranks:  # a rank has no use for two copies
                pieces[head] += 1
                tries[head] = greatest()
                pieces[head] -= 1
        chosen = min(tries, key=lambda head: tries[head], default=None)
        if chosen is None or tries[chosen] >= now * (1 - _ROUNDING):
            break
        pieces[chosen] += 1
        now = tries[chosen]
    return [[load / n] * n for load, n in zip(loads, pieces, strict=True)]


def totals(loads: Sequence[float], assignment: Sequence[int], ranks: int) -> list[float]:
    """The load of each rank."""
    held = [0.0] * ranks
    for load, rank in zip(loads, assignment, strict=True):
        held[rank] += load
    return held
