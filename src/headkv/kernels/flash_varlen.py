"""Ragged attention through kernels for sequences of varying length.

Every segment is a sequence of one head: as many queries as its group has query rows, not causal,
over its own entries. Two functions take that: flash-attn's, an optional package, and PyTorch's own.
Both are flash attention in half precision on a GPU. Their work is shared out by segment, not by
entry, so a step may take as long as its longest head.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headkv.kernels.ragged import Ragged


@functools.cache
def flash_function() -> Callable[..., Any]:
    """Returns flash-attn's function for sequences of varying length.

    Raises:
        ImportError: says why there is none.
    """
    if importlib.util.find_spec("flash_attn") is None:
        raise ImportError("flash-attn is not installed")
    try:
        return importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, OSError) as error:  # built for another PyTorch
        raise ImportError(f"flash-attn is installed but broken ({error})") from error


@functools.cache
def varlen_function() -> Callable[..., Any]:
    """Returns PyTorch's function, told to return the log-sum-exp too.

    Raises:
        ImportError: says why there is none.
    """
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ImportError as error:
        raise ImportError(f"PyTorch {torch.__version__} has no varlen_attn") from error
    if "scale" not in inspect.signature(module.varlen_attn).parameters:
        raise ImportError(f"varlen_attn of PyTorch {torch.__version__} takes no scale")
    return functools.partial(module.varlen_attn, return_aux=module.AuxRequest(lse=True))


def flash(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends through `flash_attn_varlen_func`, in half precision on a GPU.

    Args:
        query: `[batch, query_head, query, head_dim]`; query head h reads stored head `h // group`.
        prefix: the compressed prompt.
        scaling: factor of the logits.
        softcap: soft cap of the logits, if the model has one.

    Returns:
        `[batch, query_head, query, value_dim]` in the query's dtype, and the log-sum-exp of the
        logits, float32 `[batch, query_head, query]`.
    """
    output, lse, _ = flash_function()(
        *_sequences(query, prefix),
        softmax_scale=scaling,
        causal=False,
        softcap=softcap or 0.0,
        return_attn_probs=True,  # returns the log-sum-exp too; without dropout it forms no matrix
    )
    return _unpack(output, lse, query)


def varlen(
    query: Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attends through `torch.nn.attention.varlen.varlen_attn`, in half precision on a GPU.

    Args:
        query: `[batch, query_head, query, head_dim]`; query head h reads stored head `h // group`.
        prefix: the compressed prompt.
        scaling: factor of the logits.
        softcap: must be None: the function has no soft cap.

    Returns:
        `[batch, query_head, query, value_dim]` in the query's dtype, and the log-sum-exp of the
        logits, float32 `[batch, query_head, query]`.
    """
    assert softcap is None, "varlen_attn has no soft cap"
    output, lse = varlen_function()(*_sequences(query, prefix), scale=scaling)
    return _unpack(output, lse, query)


def _sequences(
    query: Tensor, prefix: Ragged
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int]:
    """The seven arguments both functions begin with.

    Returns:
        Queries `[segment * row, 1, head_dim]`, keys and values `[entries, 1, ...]`, where each
        segment's rows and entries start (int32 `[segment + 1]`), the most rows and entries.
    """
    segments = prefix.counts.numel()
    rows = query.shape[0] * query.shape[1] * query.shape[2] // segments
    row_starts = torch.arange(0, segments * rows + 1, rows, dtype=torch.int32, device=query.device)
    return (
        query.reshape(segments * rows, 1, -1),
        prefix.keys[:, None],
        prefix.values[:, None],
        row_starts,
        prefix.offsets,
        rows,
        max(prefix.lengths),
    )


def _unpack(output: Tensor, lse: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Undoes `_sequences`; with one head, `[head, row]` and `[segment, head, row]` are one layout.

    Args:
        output: `[segment * row, 1, value_dim]`.
        lse: float32, `[1, segment * row]`; before flash-attn 2.6 `[segment, 1, row]`.
        query: `[batch, query_head, query, head_dim]`.
    """
    shape = query.shape[:3]
    return output.reshape(*shape, -1), lse.reshape(shape)
