"""Two ratios of decoding on the CPU, side by side in one process, with SmolLM2-135M's shape.

.venv/bin/python bench/decoding.py bits  # a token with 8, 4, 2 bits, 4,096 entries a head
.venv/bin/python bench/decoding.py rkv   # R-KV at 256 over 2,048 tokens, the full cache at 1,024
"""

import statistics
import sys
import time
from typing import Any

import torch
from transformers import DynamicCache

import headkv
from headkv.cache.layer_prompt import LayerPrompt

ENTRIES, STEPS = 4096, 24


def filled(model: Any, method: headkv.Method, tokens: int) -> headkv.CompressedCache:
    """A cache of random entries, as a prefill of so many tokens would have left it."""
    cache = headkv.CompressedCache(model.config, method)
    config, made = model.config, {"dtype": model.dtype}
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    for index, layer in enumerate(cache.layers):
        keys, values = (torch.randn(1, kv_heads, tokens, width, **made) for _ in range(2))
        queries = torch.randn(1, heads, 8, width, **made)
        total = config.num_hidden_layers
        layer.receive(LayerPrompt(queries, keys, values, [0], index, total, 0, 0.125, None))
    return cache


def step(model: Any, cache: Any, position: int) -> float:
    """Seconds of one token."""
    ids = torch.tensor([[1 + position % 40000]])
    began = time.perf_counter()
    with torch.no_grad():
        model(
            input_ids=ids,
            position_ids=torch.tensor([[position]]),
            past_key_values=cache,
            use_cache=True,
        )
    return time.perf_counter() - began


def bits(model: Any) -> None:
    """A token with entries of fewer bits, over one with entries as the model made them."""
    names = (16, 8, 4, 2)
    caches = {n: filled(model, headkv.build_method("fullkv", bits=n), ENTRIES) for n in names}
    seconds: dict[int, list[float]] = {n: [] for n in names}
    for turn in range(STEPS + 2):
        for n, cache in caches.items():
            spent = step(model, cache, ENTRIES + turn)
            if turn > 1:
                seconds[n].append(spent)
    base = statistics.median(seconds[16])
    for n in names:
        middle = statistics.median(seconds[n])
        size = caches[n].kept_bytes / 1e6
        print(
            f"{n:2d} bits: {1000 * middle:7.2f} ms a token, "
            f"{middle / base:.3f} of 16 bits, {size:.1f} MB"
        )


def rkv(model: Any) -> None:
    """R-KV over 2,048 tokens with its cuts, and between them the full cache at 1,024."""
    method = headkv.build_method("rkv", kv_size=256, decode_kv_size=256, compress_every=128)
    cache = filled(model, method, 256)
    full = {
        "FullKV": filled(model, headkv.build_method("fullkv"), 1024),
        "DynamicCache": DynamicCache(config=model.config),
    }
    with torch.no_grad():
        model(torch.randint(3, 40000, (1, 1024)), past_key_values=full["DynamicCache"])
    own: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in full}
    for turn in range(2048):
        own.append(step(model, cache, 256 + turn))
        if turn % 32 == 0:
            for name, other in full.items():
                others[name].append(step(model, other, 1024))
                other.crop(-1)
    mean = statistics.mean(own)
    print(f"R-KV 256: mean {1000 * mean:.2f} ms a token over 2,048, cuts included")
    print(f"          median {1000 * statistics.median(own):.2f}, longest {1000 * max(own):.1f} ms")
    for name, spent in others.items():
        middle = statistics.mean(spent)
        print(f"{name} at 1,024: {1000 * middle:.2f} ms a token; R-KV is {mean / middle:.3f} of it")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loaded = headkv.load_model("smollm2_135m")[0]
    {"bits": bits, "rkv": rkv}[sys.argv[1]](loaded)
