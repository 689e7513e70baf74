"""Which backend serves a tensor: by device and availability, or as told."""

from collections.abc import Callable

from torch import Tensor

from headkv.errors import choose
from headkv.kernels.reference import attend as reference
from headkv.kernels.segments import attend as segments
from headkv.ragged import Ragged

Attend = Callable[[Tensor, Ragged, float, float | None], tuple[Tensor, Tensor]]

BACKENDS: dict[str, Attend] = {"segments": segments, "reference": reference}


def attend(
    query: Tensor,
    prefix: Ragged,
    scaling: float,
    softcap: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `query` over `prefix` with the best backend for its device.

    Args:
        query: `[batch, query_head, query, head_dim]`.
        prefix: the compressed prompt; query head h reads stored head `h // group`.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.
        backend: a name of `BACKENDS`; None chooses.

    Returns:
        Output `[batch, query_head, query, value_dim]` and log-sum-exp, float32
        `[batch, query_head, query]`.
    """
    name = choose("backend", backend or "segments", sorted(BACKENDS))
    return BACKENDS[name](query, prefix, scaling, softcap)
