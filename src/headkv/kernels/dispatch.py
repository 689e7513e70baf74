"""Which backend serves a tensor: by device and availability, or as told.

The CPU takes `segments`. A GPU takes the first of these that can serve the call: `triton`, whose
work is cut evenly whatever the heads hold, so that a skewed budget costs what its entries cost;
`flash` and `varlen`, which may be as slow as the longest head; `segments`, launches for each head.
All compute the same to rounding.
"""

import functools
import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor

from headkv.errors import UserError, choose
from headkv.kernels.flash_varlen import flash, flash_function, varlen, varlen_function
from headkv.kernels.ragged import Ragged
from headkv.kernels.reference import attend as reference
from headkv.kernels.segments import attend as segments
from headkv.kernels.tiled import Tiled
from headkv.kernels.tiled import attend as tiled

Attend = Callable[[Tensor, Ragged, float, float | None], tuple[Tensor, Tensor]]


def triton(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Calls `headkv.kernels.triton_decode.attend`, imported here as Triton is not everywhere."""
    from headkv.kernels.triton_decode import attend

    return attend(query, prefix, scaling, softcap)


BACKENDS: dict[str, Attend] = {
    "triton": triton,
    "flash": flash,
    "varlen": varlen,
    "segments": segments,
    "reference": reference,
}
VARIABLE = "HEADKV_BACKEND"  # names the backend of all calls that name none

_ON_GPU = ("triton", "flash", "varlen", "segments")
_HALF = (torch.float16, torch.bfloat16)
_MAX_WIDTH = 256  # of a head, in all three GPU backends


def attend(
    query: Tensor,
    prefix: Ragged | Tiled,
    scaling: float,
    softcap: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `query` over `prefix` with the best backend for its device.

    Args:
        query: `[batch, query_head, query, head_dim]`.
        prefix: the compressed prompt; query head h reads stored head `h // group`. Tiles have one
            backend, their own.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.
        backend: a name of `BACKENDS`; None takes what the environment variable HEADKV_BACKEND
            says, and chooses if it says nothing.

    Returns:
        Output `[batch, query_head, query, value_dim]` and log-sum-exp, float32
        `[batch, query_head, query]`.

    Raises:
        UserError: the named backend is unknown or cannot serve this call.
    """
    if isinstance(prefix, Tiled):
        return tiled(query, prefix, scaling, softcap)
    name = backend_for(query, prefix, softcap, backend)
    return BACKENDS[name](query, prefix, scaling, softcap)


def backend_for(
    query: Tensor, prefix: Ragged, softcap: float | None = None, backend: str | None = None
) -> str:
    """Returns the name of the backend that `attend` uses; arguments and errors are its own."""
    setting = "backend" if backend else VARIABLE
    asked = backend or os.environ.get(VARIABLE)
    if not asked:
        names = _ON_GPU if query.is_cuda else ("segments",)
        return next(name for name in names if not _problem(name, query, prefix, softcap))
    name = choose(setting, asked, sorted(BACKENDS))
    problem = _problem(name, query, prefix, softcap)
    if problem:
        able = [other for other in BACKENDS if not _problem(other, query, prefix, softcap)]
        raise UserError(
            f"backend {name!r} cannot be used: {problem}",
            allowed=", ".join(sorted(able)),
            do=f"set {setting}= to one of these",
        )
    return name


def available(device: torch.device) -> list[str]:
    """Returns the names of the backends that can run on a device, sorted.

    Args:
        device: where the tensors will be; a backend may still not take a dtype or a head's width.
    """
    return sorted(name for name in BACKENDS if not missing(name, device))


@functools.cache
def missing(name: str, device: torch.device) -> str | None:
    """Says why a backend cannot run on a device at all.

    Args:
        name: of `BACKENDS`.
        device: where the tensors will be.

    Returns:
        The reason, to stand behind a colon; None if the backend can run.
    """
    if name in ("segments", "reference"):
        return None
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return None  # Triton runs its kernels in NumPy, on any device
    if device.type != "cuda":
        return f"it needs a GPU, and the tensors are on the {device.type}"
    if name == "triton":
        return _triton_start()
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    try:
        flash_function() if name == "flash" else varlen_function()
    except ImportError as error:
        return str(error)
    return None


def _triton_start() -> str | None:
    """Why Triton cannot start: at first use it builds its link to the driver with a C compiler."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # a missing compiler, header or driver each raises another class
        return f"Triton cannot start ({type(error).__name__}: {error})"
    return None


def _problem(name: str, query: Tensor, prefix: Ragged, softcap: float | None) -> str | None:
    """Why a backend cannot serve a call; None if it can."""
    if name in ("segments", "reference"):
        return None
    absent = missing(name, query.device)
    if absent:
        return absent
    head_dim, value_dim = prefix.keys.shape[1], prefix.values.shape[1]
    if not query.dtype == prefix.keys.dtype == prefix.values.dtype:
        return f"queries are {query.dtype}, keys {prefix.keys.dtype}"
    if query.dtype not in (*_HALF, *([torch.float32] if name == "triton" else [])):
        return f"it does not take {query.dtype}"
    if max(head_dim, value_dim) > _MAX_WIDTH:
        return f"it takes heads up to {_MAX_WIDTH} wide, not {max(head_dim, value_dim)}"
    if name != "triton" and (head_dim % 8 or head_dim != value_dim):
        return (
            f"it takes keys and values of one width, a multiple of 8, not {head_dim}, {value_dim}"
        )
    if name != "triton" and prefix.bias is not None:
        return "it takes no bias of the logits, which this cache's entries have"
    if name == "varlen" and softcap is not None:
        return "it has no soft cap"
    return None
