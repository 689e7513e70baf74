"""The compressed cache: its layers, and what each layer of a model becomes."""

from headkv.cache.compressed_cache import CompressedCache
from headkv.cache.compressed_layer import CompressedLayer
from headkv.cache.layer_plan import LayerPlan, plan_layers
from headkv.cache.prompt_layer import PromptLayer

__all__ = ["CompressedCache", "CompressedLayer", "LayerPlan", "PromptLayer", "plan_layers"]
