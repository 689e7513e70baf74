"""Which tokens a method keeps of one layer, from tensors at hand."""

import torch
from torch import Tensor

from headkv.errors import UserError
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
    _check(method, window_queries, keys, layer, values, num_layers)
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


def _check(
    method: Method,
    queries: Tensor,
    keys: Tensor,
    layer: int,
    values: Tensor | None,
    num_layers: int | None,
) -> None:
    """Raises `UserError` where shapes do not belong together, or there is no such layer."""
    given = (queries, keys, *([] if values is None else [values]))
    if not isinstance(method, Method) or not all(isinstance(each, Tensor) for each in given):
        kinds = ", ".join(type(each).__name__ for each in (method, *given))
        raise UserError(
            f"method, queries, keys and values of types {kinds}",
            allowed="what headkv.build_method returns, and tensors",
            do="give the method and the tensors of one layer",
        )
    shapes = [tuple(each.shape) for each in given]
    fits = all(len(shape) == 4 and 0 not in shape for shape in shapes)
    if fits:
        (rows, heads, _, width), (batch, kv_heads, tokens, dims), *rest = shapes
        fits = (rows, width) == (batch, dims) and heads % kv_heads == 0
        fits = fits and all(shape[:3] == (batch, kv_heads, tokens) for shape in rest)
    if not fits or not (queries.is_floating_point() and keys.is_floating_point()):
        raise UserError(
            f"{queries.dtype} queries, keys and values of shapes {', '.join(map(str, shapes))}",
            allowed="floats [batch, query head, window, head_dim] and [batch, KV head, token, "
            "head_dim], query heads in whole groups",
            do="give the tensors of one layer",
        )
    depth = num_layers or 1
    if type(layer) is int:
        whole = method.kv_size is None
        depth = layer + 1 if whole else method.allocator.depth(layer, num_layers)
    if type(layer) is not int or not 0 <= layer < min(depth, num_layers or depth):
        allowed = f"0 to {(num_layers or depth) - 1}"
        raise UserError(f"layer {layer!r}", allowed=allowed, do="change layer=")
