"""How results look: names and order of methods, colours, and the text forms of a table."""

from typing import Any

import pandas as pd

NAMES = {
    "fullkv": "FullKV",
    "dynamic_cache": "DynamicCache",
    "streamingllm": "StreamingLLM",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "adakv": "Ada-KV",
    "compresskv": "CompressKV",
    "headkv_r": "HeadKV-R",
    "headkv_r2": "HeadKV-R2",
}
DEFAULT_SETTING = ("corrected", "kv_head")


def _base(method: str) -> str:
    """The known method a name begins with: `headkv_r2` for `headkv_r2_permuted`, else itself."""
    known = [name for name in NAMES if method == name or method.startswith(f"{name}_")]
    return max(known, key=len, default=method)


def method_name(method: str, protocol: str = "corrected", granularity: str = "kv_head") -> str:
    """The name a reader knows, with whatever is not the default in brackets."""
    base = _base(method)
    extra = [method.removeprefix(base).strip("_").replace("_", " ")] if method != base else []
    if (protocol, granularity) != DEFAULT_SETTING:
        extra += [protocol, granularity.replace("_", " ")]
    name = NAMES.get(base, base)
    return f"{name} ({', '.join(extra)})" if extra else name


def method_order(method: str) -> tuple[int, str]:
    """Sort key: the full cache first, the others as in `NAMES`, strangers last."""
    base = _base(method)
    return (list(NAMES).index(base) if base in NAMES else len(NAMES), method)


def size_name(kv_size: Any) -> str:
    """`KV 128`, or `full`."""
    return "full" if pd.isna(kv_size) else f"KV {int(kv_size)}"
