"""Sharing a whole number of cache entries among heads.

Knows nothing of attention, models or methods: numbers in, numbers out. Everything is float64 or
int64 on the CPU, so that a budget is the same on every device.
"""

import torch
from torch import Tensor

_BISECTIONS = 200  # halves float64's range away; the loop stops earlier once nothing moves


def largest_remainder(shares: Tensor, total: int) -> Tensor:
    """Rounds `shares` to whole numbers that sum to `total`, each within 1 of its share.

    Args:
        shares: float64 of any shape, not negative, summing to `total` up to rounding.
        total: what the result sums to.

    Returns:
        int64 of the same shape. Ties go to the earlier position.
    """
    flat = shares.flatten()
    whole = torch.floor(flat + 1e-9)
    missing = total - int(whole.sum())
    order = torch.argsort(flat - whole, descending=True, stable=True)
    whole[order[:missing]] += 1
    return whole.to(torch.int64).reshape(shares.shape)


def distribute(total: int, base: Tensor, weights: Tensor, low: int, high: int) -> Tensor:
    """Fills heads up to an exact total: `clip(base + level * weights, low, high)`.

    The level is the one at which the sum is `total`, so what a clipped head cannot take goes to
    the others in proportion to their weights (water-filling). Heads of weight zero take part only
    once all others are at a bound.

    Args:
        total: entries to share out; cut to what fits between the bounds.
        base: what each head has before sharing, float64 of any shape.
        weights: not negative, same shape.
        low: fewest entries a head may have.
        high: most entries a head may have.

    Returns:
        int64 of the shape of `base`, summing to `total`, each in [low, high].
    """
    base, weights = base.to(torch.float64), weights.to(torch.float64)
    total = min(max(total, low * base.numel()), high * base.numel())
    # Less than 1e-12 of the largest weight is no part of a token whatever the total.
    weights = torch.where(weights > 1e-12 * weights.max(), weights / weights.max(), 0.0)
    if not bool((weights > 0).any()):
        weights = torch.ones_like(base)
    shares = _level(total, base, weights, low, high)
    if abs(float(shares.sum()) - total) > 1e-6:  # every weighted head is at a bound
        shares = _level(total, shares, (weights == 0).to(torch.float64), low, high)
    return largest_remainder(shares, total)


def fill(order: Tensor, total: int, low: int, high: int) -> Tensor:
    """Gives everyone `low`, and fills the first ones up to `high` for as long as the total lasts.

    Args:
        order: int64 `[place]`, who comes first.
        total: entries to share out; cut to what fits between the bounds.
        low: fewest entries.
        high: most entries.

    Returns:
        int64 `[place]`, summing to `total`: all but one are at a bound.
    """
    counts = torch.full_like(order, low)
    left = min(max(total, low * len(order)), high * len(order)) - low * len(order)
    for place in order.tolist():
        counts[place] += min(left, high - low)
        left -= min(left, high - low)
    return counts


def _level(total: int, base: Tensor, weights: Tensor, low: int, high: int) -> Tensor:
    """The clipped shares at the level whose sum is closest to `total`."""
    smallest = float(weights[weights > 0].min())
    reach = (float(base.abs().max()) + high + 1) / smallest
    lower, upper = -reach, reach
    for _ in range(_BISECTIONS):
        middle = (lower + upper) / 2
        if middle in (lower, upper):
            break
        if float((base + middle * weights).clamp(low, high).sum()) < total:
            lower = middle
        else:
            upper = middle
    return (base + upper * weights).clamp(low, high)
