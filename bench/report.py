"""What the benchmark found: a table of ratios, and whether what must hold does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

MIB = 2**20
BASE = ("headkv", "dynamic_cache")


@dataclass
class Measured:
    """One cache of one side at one prompt length.

    Attributes:
        side: `headkv` or `kvpress`.
        name: name of the method.
        length: tokens of the prompt.
        first: seconds to the first token, of each prefill.
        compress: seconds of each prefill spent on compressing.
        steps: seconds of every one-token step.
        held: bytes of the cache right after prefill.
        entry_bytes: bytes that the prompt's entries occupy; for kvpress, `held`.
        index_bytes: bytes that say which entries count (kvpress's Ada-KV).
        held_at_end: bytes of the cache after all steps.
        needed_at_end: `entry_bytes` and the bytes that the generated tokens occupy.
        peak: most bytes that tensors took at once during the prefill, weights not counted.
    """

    side: str
    name: str
    length: int
    first: list[float] = field(default_factory=list)
    compress: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    held: int = 0
    entry_bytes: int = 0
    index_bytes: int = 0
    held_at_end: int = 0
    needed_at_end: int = 0
    peak: int = 0

    @property
    def token(self) -> float:
        """Seconds of the median step."""
        return median(self.steps)

    @property
    def share(self) -> float:
        """Part of the prefill spent on compressing."""
        return median(part / whole for part, whole in zip(self.compress, self.first, strict=True))

    @property
    def overhead(self) -> float:
        """Bytes held over bytes needed, at its worst; 1 is perfect."""
        return max(self.held / self.entry_bytes, self.held_at_end / self.needed_at_end)


@dataclass(frozen=True)
class Check:
    """One figure that must hold.

    Attributes:
        what: the figure's meaning.
        value: the figure as measured, with its unit.
        limit: the bound, with its unit.
        holds: whether the figure is within the bound; None where it could not be measured.
    """

    what: str
    value: str
    limit: str
    holds: bool | None

    def __str__(self) -> str:
        verdict = {True: "holds", False: "FAILS", None: "not measured"}[self.holds]
        return f"{verdict:12s} {self.what}: {self.value} ({self.limit})"


def table(found: Sequence[Measured], length: int) -> str:
    """Returns a table of all caches at one length; ratios are against `DynamicCache`.

    Args:
        found: everything measured.
        length: tokens of the prompt.
    """
    here = [each for each in found if each.length == length]
    base = next((each for each in here if (each.side, each.name) == BASE), None)
    lines = [
        f"{length} tokens",
        f"  {'':24s}{'cache':>11s}{'peak':>11s}{'prefill':>10s}{'compress':>10s}"
        f"{'a token':>11s}{'smaller':>9s}{'faster':>8s}",
    ]
    for each in here:
        smaller = "" if base is None else f"{base.held / each.held:8.1f}x"
        faster = "" if base is None else f"{base.token / each.token:7.2f}x"
        lines.append(
            f"  {each.side + ' ' + each.name:24s}{each.held / MIB:7.2f} MiB{each.peak / MIB:7.1f} "
            f"MiB{median(each.first):8.2f} s{each.share:9.2%} {each.token * 1e3:7.1f} ms"
            f"{smaller:>9s}{faster:>8s}"
        )
    return "\n".join(lines)


def checks(found: Sequence[Measured], kv_size: int, small: bool) -> list[Check]:
    """Returns what must hold, at every length measured.

    Args:
        found: everything measured.
        kv_size: mean tokens a stored head may keep, of all methods.
        small: whether the model is SmolLM2 in float32, for which bytes are given outright.
    """
    by: dict[tuple[str, str, int], Measured] = {(e.side, e.name, e.length): e for e in found}
    result = []
    for length in sorted({each.length for each in found}):
        at = f"at {length}"
        snapkv = by.get(("headkv", "snapkv", length))
        peer = by.get(("kvpress", "adakv", length))
        for name in ("adakv", "headkv_r2"):
            ours = by.get(("headkv", name, length))
            if ours is None:
                continue
            if small and kv_size == 128:
                mib = ours.held / MIB
                result.append(_most(f"{name} {at} holds", mib, 6, "MiB"))
            if snapkv is not None:
                ratio = ours.token / snapkv.token
                result.append(_most(f"{name} {at}, a token against our SnapKV", ratio, 1.15, "x"))
            faster = None if peer is None else peer.token / ours.token
            smaller = None if peer is None else peer.held / ours.held
            if length >= 7500:
                result.append(_least(f"{name} {at} faster than kvpress's Ada-KV", faster, 4))
                result.append(_least(f"{name} {at} smaller than kvpress's Ada-KV", smaller, 50))
        theirs = by.get(("kvpress", "snapkv", length))
        if snapkv is not None:
            speed = None if theirs is None else theirs.token / snapkv.token
            result.append(_least(f"our SnapKV {at} against kvpress's, a token", speed, 1))
        for each in (each for each in found if each.length == length and each.side == "headkv"):
            if each.name == BASE[1]:
                continue
            what = f"{each.name} {at}"
            result.append(_most(f"{what}, bytes held over needed", each.overhead, 1.02, "x"))
            if length >= 4000:
                share = 100 * each.share
                result.append(_most(f"{what}, compression of prefill", share, 5, "%"))
    return result


def _most(what: str, value: float, limit: float, unit: str) -> Check:
    return Check(what, f"{value:.3f} {unit}", f"at most {limit} {unit}", value <= limit)


def _least(what: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(what, "kvpress is absent", f"at least {limit}x", None)
    return Check(what, f"{value:.2f} x", f"at least {limit} x", value >= limit)


def as_json(found: Sequence[Measured], verdicts: Sequence[Check]) -> dict[str, Any]:
    """Returns everything measured and checked, as JSON can hold it."""
    derived = ("token", "share", "overhead")
    rows = [vars(each) | {key: getattr(each, key) for key in derived} for each in found]
    return {"measured": rows, "checks": [vars(each) for each in verdicts]}
