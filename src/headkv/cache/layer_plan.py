"""Which layers of a decoder are compressed, read off its config.

Full-attention layers are. Sliding-window layers among them keep their own window whole, as the
model meant it; a budget is shared among the full ones. In a model that has only sliding-window
layers all are compressed, which is exact until the window is full, and refused from there on.
"""

from dataclasses import dataclass
from typing import Any

from headkv.errors import UserError
from headkv.records import text_config

_SLIDING = ("sliding_attention", "hybrid_sliding", "reference_sliding_attention")


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Attributes:
        window: tokens a query may look back, itself included; None: all.
        index: place among the compressed layers; None if it is not one.
        total: compressed layers of the model.
        heads: query heads; None: unknown, or not the same in every layer.
    """

    window: int | None
    index: int | None
    total: int
    heads: int | None = None


def plan_layers(config: Any) -> list[LayerPlan]:
    """Returns the plan of every layer of a model.

    Args:
        config: a transformers config; of a multimodal model its text part is read.

    Raises:
        UserError: layers of a kind that cannot be compressed, by name.
    """
    text = text_config(config)
    if not hasattr(text, "num_attention_heads"):
        _refuse(text, "no attention heads")
    types = _layer_types(text)
    for kind in types:
        if kind != "full_attention" and kind not in _SLIDING:
            _refuse(text, f"{kind.replace('_', ' ')} layers")
    if getattr(text, "num_kv_shared_layers", 0) or "reuse" in (
        getattr(text, "kv_sharing_modes", None) or ()
    ):
        _refuse(text, "layers that share another layer's keys and values")
    if getattr(text, "kv_lora_rank", None):
        _refuse(text, "multi-head latent attention (MLA)")
    windows = [text.sliding_window if kind in _SLIDING else None for kind in types]
    compressed = [index for index, window in enumerate(windows) if window is None]
    compressed = compressed or list(range(len(windows)))
    place = {layer: index for index, layer in enumerate(compressed)}
    heads = text.num_attention_heads if isinstance(text.num_attention_heads, int) else None
    return [
        LayerPlan(window, place.get(layer), len(compressed), heads)
        for layer, window in enumerate(windows)
    ]


def _layer_types(text: Any) -> list[str]:
    types = getattr(text, "layer_types", None)
    if types is not None:
        return list(types)
    kind = "full_attention"
    if getattr(text, "sliding_window", None) is not None:
        kind = "sliding_attention"
    elif getattr(text, "attention_chunk_size", None) is not None:
        kind = "chunked_attention"
    return [kind] * int(text.num_hidden_layers)


def _refuse(text: Any, what: str) -> None:
    raise UserError(
        f"{text.model_type} has {what}",
        allowed="full-attention and sliding-window layers with keys and values of their own",
        do="use another model, or DynamicCache without compression",
    )
