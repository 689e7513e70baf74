"""HeadKV-Bench: KV-cache compression methods, compared under one cache and honest budgets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headkv.benchmarks.longbench_prompts import longbench_prompt
    from headkv.cache import CompressedCache
    from headkv.errors import UserError
    from headkv.generation.decoding import Stopping, decode
    from headkv.generation.prefill import Prefilled, prefill
    from headkv.methods import Method, build_method, select
    from headkv.metrics.longbench import score_longbench
    from headkv.models.loading import load_model
    from headkv.storage.head_scores import load_head_scores, save_head_scores
    from headkv.storage.layer_importance import load_layer_importance

__all__ = [
    "CompressedCache",
    "Method",
    "Prefilled",
    "Stopping",
    "UserError",
    "build_method",
    "decode",
    "load_head_scores",
    "load_layer_importance",
    "load_model",
    "longbench_prompt",
    "prefill",
    "save_head_scores",
    "score_longbench",
    "select",
]

_HOMES = {
    "CompressedCache": "cache",
    "Method": "methods",
    "Prefilled": "generation.prefill",
    "Stopping": "generation.decoding",
    "UserError": "errors",
    "build_method": "methods",
    "decode": "generation.decoding",
    "load_head_scores": "storage.head_scores",
    "load_layer_importance": "storage.layer_importance",
    "load_model": "models.loading",
    "longbench_prompt": "benchmarks.longbench_prompts",
    "prefill": "generation.prefill",
    "save_head_scores": "storage.head_scores",
    "score_longbench": "metrics.longbench",
    "select": "methods",
}


def __getattr__(name: str) -> Any:
    """Imports public names when first used: reports and metrics must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
