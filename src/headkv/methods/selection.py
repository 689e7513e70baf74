"""Which tokens a method keeps of one layer, from tensors at hand."""

import torch
from torch import Tensor

from headkv.methods.evidence import Evidence
from headkv.methods.method import Method


def select(
    method: Method,
    window_queries: Tensor,
    keys: Tensor,
    layer: int,
    *,
    values: Tensor | None = None,
    num_layers: int | None = None,
    template_tokens: int = 0,
    scaling: float | None = None,
) -> list[list[Tensor]]:
    """Which tokens a method keeps of a layer.

    Args:
        method: from `build_method`.
        window_queries: queries of the observation window after RoPE, or more before them,
            `[batch, query_head, window, head_dim]`.
        keys: all keys after RoPE, `[batch, kv_head, token, head_dim]`.
        layer: index of the layer.
        values: all values, `[batch, kv_head, token, value_dim]`, for scorers that read them.
        num_layers: layers of the model (PyramidKV needs it).
        template_tokens: tokens behind the window that are always kept.
        scaling: of the attention logits; `head_dim ** -0.5` if None.

    Returns:
        Kept positions, ascending, as `[batch][stored head]` tensors.

    Raises:
        UserError: the method must see all layers, or more than is given here.
    """
    with torch.no_grad():
        return [
            method.keep(
                Evidence(
                    queries,
                    row,
                    layer,
                    None if values is None else values[place],
                    num_layers,
                    template_tokens,
                    scaling,
                )
            ).by_head()
            for place, (queries, row) in enumerate(zip(window_queries, keys, strict=True))
        ]
