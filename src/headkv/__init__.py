"""HeadKV-Bench: KV-cache compression methods, compared under one cache and honest budgets."""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headkv.lazy import lazy

if TYPE_CHECKING:  # `as` says that they are offered here
    from headkv.benchmarks.longbench_prompts import longbench_prompt as longbench_prompt
    from headkv.benchmarks.needle import Needle as Needle
    from headkv.cache import CompressedCache as CompressedCache
    from headkv.config import DATA as DATA
    from headkv.config import instantiate as instantiate
    from headkv.config import load_group as load_group
    from headkv.config import names as names
    from headkv.errors import UserError as UserError
    from headkv.evaluation.kept_tokens import token_texts as token_texts
    from headkv.generation.decoding import Stopping as Stopping
    from headkv.generation.decoding import decode as decode
    from headkv.generation.prefill import Prefilled as Prefilled
    from headkv.generation.prefill import kept_positions as kept_positions
    from headkv.generation.prefill import prefill as prefill
    from headkv.generation.reading import Reading as Reading
    from headkv.generation.reading import reading as reading
    from headkv.methods import Evidence as Evidence
    from headkv.methods import Kept as Kept
    from headkv.methods import Method as Method
    from headkv.methods import build_method as build_method
    from headkv.methods import select as select
    from headkv.methods.allocators.base import Room as Room
    from headkv.methods.allocators.base import ShapeAllocator as ShapeAllocator
    from headkv.methods.allocators.sharing import distribute as distribute
    from headkv.methods.scorers.window import WindowScorer as WindowScorer
    from headkv.metrics.longbench import score_longbench as score_longbench
    from headkv.models.loading import load_model as load_model
    from headkv.models.prompts import encode as encode
    from headkv.models.prompts import end_token_ids as end_token_ids
    from headkv.models.spans import span_ends as span_ends
    from headkv.models.spec import load_spec as load_spec
    from headkv.report.load import load_results as load_results
    from headkv.storage.head_scores import load_head_scores as load_head_scores
    from headkv.storage.head_scores import save_head_scores as save_head_scores
    from headkv.storage.layer_importance import load_layer_importance as load_layer_importance

_HOMES = {
    "DATA": "config",
    "CompressedCache": "cache",
    "Evidence": "methods",
    "Kept": "methods",
    "Method": "methods",
    "Needle": "benchmarks.needle",
    "Prefilled": "generation.prefill",
    "Reading": "generation.reading",
    "Room": "methods.allocators.base",
    "ShapeAllocator": "methods.allocators.base",
    "Stopping": "generation.decoding",
    "UserError": "errors",
    "WindowScorer": "methods.scorers.window",
    "build_method": "methods",
    "decode": "generation.decoding",
    "distribute": "methods.allocators.sharing",
    "encode": "models.prompts",
    "end_token_ids": "models.prompts",
    "instantiate": "config",
    "kept_positions": "generation.prefill",
    "load_group": "config",
    "load_head_scores": "storage.head_scores",
    "load_layer_importance": "storage.layer_importance",
    "load_model": "models.loading",
    "load_results": "report.load",
    "load_spec": "models.spec",
    "longbench_prompt": "benchmarks.longbench_prompts",
    "names": "config",
    "prefill": "generation.prefill",
    "reading": "generation.reading",
    "save_head_scores": "storage.head_scores",
    "score_longbench": "metrics.longbench",
    "select": "methods",
    "span_ends": "models.spans",
    "token_texts": "evaluation.kept_tokens",
}
__all__ = list(_HOMES)

__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


# transformers keeps what `attn_implementation=` may say in these two registers. Ours is entered as
# soon as they exist, so that `import headkv` is enough in any order and never imports torch itself;
# what is entered imports the real function at its first call.
_REGISTERS = {
    "transformers.modeling_utils": ("AttentionInterface", "headkv_attention"),
    "transformers.masking_utils": ("AttentionMaskInterface", "headkv_mask"),
}


def _enter(module: ModuleType) -> None:
    """Enters the name `headkv` in the register that a module of transformers defines."""
    register, function = _REGISTERS[module.__name__]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("headkv.cache.attention"), function)(*args, **kwargs)

    getattr(module, register).register("headkv", forward)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Loads the two modules of transformers as ever, and enters our functions afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds only the two, by the other finders."""
        if fullname not in _REGISTERS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                loader = spec.loader
                spec.loader = _Entering(loader)
                return spec
        return None


class _Entering(importlib.abc.Loader):
    """A module's own loader, and `_enter` when it is done."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, then enters our function."""
        self._loader.exec_module(module)
        _enter(module)


for _name in _REGISTERS:
    if _name in sys.modules:
        _enter(sys.modules[_name])
sys.meta_path.insert(0, _AfterImport())
