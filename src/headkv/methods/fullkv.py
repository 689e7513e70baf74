"""FullKV: the uncompressed cache, the reference of every table."""

from dataclasses import dataclass

from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class FullKV(Method):
    """Keeps every token; `kv_size` is ignored.

    Stored per KV head under either protocol unless told otherwise: repeating keys to query heads
    would change nothing but the bytes.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_size", None)
        object.__setattr__(self, "granularity", self.granularity or "kv_head")
        super().__post_init__()
