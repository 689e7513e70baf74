"""The compression methods, one file each, and how a name becomes one.

The list of methods is `conf/method/*.yaml`: each names its class and its parameters.
"""

from typing import Any

import torch
from torch import Tensor

from headkv.config import instantiate, load_group, names
from headkv.errors import choose
from headkv.methods.evidence import Observation
from headkv.methods.method import GRANULARITIES, PROTOCOLS, Kept, Method

__all__ = ["GRANULARITIES", "PROTOCOLS", "Kept", "Method", "build_method", "select"]


def build_method(name: str, kv_size: int | None = None, **parameters: Any) -> Method:
    """The method of `conf/method/<name>.yaml`.

    Args:
        name: e.g. `headkv_r2`.
        kv_size: mean tokens a stored head keeps, window included; FullKV ignores it.
        parameters: what the yaml should not decide, e.g. `head_scores`, `beta`, `protocol`,
            `granularity`, `window_size`.

    Raises:
        UserError: unknown name or parameter, or a value out of bounds.
    """
    choose("method", name, names("method"))
    return instantiate(f"method {name}", load_group("method", name), kv_size=kv_size, **parameters)


def select(
    method: Method,
    window_queries: Tensor,
    keys: Tensor,
    layer: int,
    *,
    num_layers: int | None = None,
    template_tokens: int = 0,
    scaling: float | None = None,
) -> list[list[Tensor]]:
    """Which tokens a method keeps of a layer.

    Args:
        method: from `build_method`.
        window_queries: queries of the observation window after RoPE,
            `[batch, query_head, window, head_dim]`.
        keys: all keys after RoPE, `[batch, kv_head, token, head_dim]`.
        layer: index of the layer.
        num_layers: layers of the model (PyramidKV needs it).
        template_tokens: tokens behind the window that are always kept.
        scaling: of the attention logits; `head_dim ** -0.5` if None.

    Returns:
        Kept positions, ascending, as `[batch][stored head]` tensors.
    """
    with torch.no_grad():
        return [
            method.keep(
                Observation(queries, row, layer, num_layers, template_tokens, scaling)
            ).by_head()
            for queries, row in zip(window_queries, keys, strict=True)
        ]
