"""How kept entries are held, and whether a method can cut them again while an answer is decoded."""

from dataclasses import dataclass

from headkv.errors import UserError, choose

BITS = (16, 8, 4, 2)
OFFLOADS = ["layers", "heads"]
KEPT_UP = frozenset({"values", "output_projection", "query_statistics", "accumulated_attention"})
"""What a scorer may need that also exists while decoding, of `evidence.NEEDS`."""
COMPRESS_EVERY = 128
"""Generated tokens between two cuts where none are named (R-KV, arXiv 2505.24133)."""


@dataclass(frozen=True)
class Reads:
    """What a method's parts say of themselves, whether built or only read off their source.

    Attributes:
        scorer: the scorer's name.
        window_size: its observation window, tokens.
        needs: what it reads beside the window's queries and the keys.
        across_heads: whether it compares heads entry by entry.
        allocator: the allocator's name.
        even: whether the allocator gives all heads of a layer as many entries.
        entries: name of the entries transform.
        gathers: whether that leaves entries as the model made them.
    """

    scorer: str
    window_size: int
    needs: frozenset[str]
    across_heads: bool
    allocator: str
    even: bool
    entries: str
    gathers: bool


def check_holding(bits: int, offload: str | None) -> None:
    """Raises `UserError` for bits that no kernel reads, or another place than the host's."""
    if bits not in BITS:
        raise UserError(
            f"bits={bits!r}, which no kernel reads",
            allowed=", ".join(map(str, BITS)),
            do="set bits= to one of these",
        )
    if offload is not None:
        choose("offload", offload, OFFLOADS)


def interval(name: str, size: int | None, every: int | None, reads: Reads) -> int | None:
    """Checks what a method is to do while decoding; returns the tokens between two cuts, if any.

    Args:
        name: the method's.
        size: its `decode_kv_size`; None: it does nothing.
        every: its `compress_every`; None: the usual one.
        reads: what its parts read.

    Raises:
        UserError: the sizes leave no room, or a part reads what is gone by then.
    """
    if size is None and every is None:
        return None
    if size is None:
        raise UserError(
            f"{name} with compress_every={every} and no decode_kv_size",
            allowed="both, or neither",
            do="set decode_kv_size=256",
        )
    every = COMPRESS_EVERY if every is None else every
    for key, value in (("decode_kv_size", size), ("compress_every", every)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{key}={value!r}", allowed="a whole number of tokens, 1 or more", do=f"set {key}="
            )
    window = reads.window_size
    if every < window:
        raise UserError(
            f"compress_every={every} is below {name}'s window of {window} tokens, whose queries "
            "choose",
            allowed=f"{window} or more",
            do="raise compress_every= or lower window_size=",
        )
    if size <= window:
        raise UserError(
            f"decode_kv_size={size} does not exceed {name}'s window of {window} tokens",
            allowed=f"{window + 1} or more",
            do="raise decode_kv_size= or lower window_size=",
        )
    if gone := sorted(reads.needs - KEPT_UP):
        raise UserError(
            f"{name} with decode_kv_size={size}: what its scorer {reads.scorer} reads "
            f"({', '.join(gone)}) does not exist while decoding",
            allowed="scorers of keys, values and recent queries, such as window, recency, rkv",
            do="leave decode_kv_size= out or set scorer=",
        )
    if reads.across_heads and not reads.even:
        raise UserError(
            f"{name} with decode_kv_size={size}: its scorer {reads.scorer} joins the heads of a "
            f"layer, which hold lists of different lengths under allocator {reads.allocator}",
            allowed="allocators that give all heads of a layer as many, such as uniform",
            do="set allocator=uniform or another scorer=",
        )
    if not reads.gathers:
        raise UserError(
            f"{name} with decode_kv_size={size}: entries {reads.entries} are made of the whole "
            "prompt, which is gone while decoding",
            allowed="entries: gather",
            do="leave decode_kv_size= out",
        )
    return every
