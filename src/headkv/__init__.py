"""HeadKV-Bench: KV-cache compression methods, compared under one cache and honest budgets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headkv.benchmarks.longbench_prompts import longbench_prompt
    from headkv.cache import CompressedCache
    from headkv.errors import UserError
    from headkv.generate import Prefilled, Stopping, decode, prefill
    from headkv.head_scores import load_head_scores, save_head_scores
    from headkv.layer_importance import load_layer_importance
    from headkv.methods import Method, build_method, select
    from headkv.metrics.longbench import score_longbench
    from headkv.models import load_model

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
    "Prefilled": "generate",
    "Stopping": "generate",
    "UserError": "errors",
    "build_method": "methods",
    "decode": "generate",
    "load_head_scores": "head_scores",
    "load_layer_importance": "layer_importance",
    "load_model": "models",
    "longbench_prompt": "benchmarks.longbench_prompts",
    "prefill": "generate",
    "save_head_scores": "head_scores",
    "score_longbench": "metrics.longbench",
    "select": "methods",
}


def __getattr__(name: str) -> Any:
    """Imports public names when first used: reports and metrics must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
