"""Decoding beyond the prefill: tokens of fewer bits, R-KV against the full cache, bounded memory.

    make bench          # or: .venv/bin/python -m bench.decoding --help

Ratios are taken in turns in one process, with SmolLM2-135M's weights and random entries. Limits: at
4,096 entries a head a token with 4 bits costs at most 1.3 of one with 16; R-KV at 256 over 2,048
tokens, cuts included, is no slower than the full cache at 1,024; bytes over 4,096 generated tokens
do not grow.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

import headkv
from headkv.cache.layer_prompt import LayerPrompt
from headkv.cli import front_door
from headkv.config import ROOT
from headkv.storage import run_record
from headkv.storage.atomic import write_json

PARTS = ["bits", "rkv", "memory"]
ENTRIES, STEPS = 4096, 24
SIZE, EVERY = 256, 128  # R-KV's
LIMITS = {"bits": 1.3, "rkv": 1.0, "memory": 1.0}
Found = tuple[float, dict[str, Any]]
"""What the limit holds for, and the rest of what was measured."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2_135m", help="a model of conf/model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, default=2048, help="of R-KV against the full cache")
    parser.add_argument("--generated", type=int, default=4096, help="while memory is watched")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench", help="a folder")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes; exit code 0 whatever the figures say."""
    options = arguments(given)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, _ = headkv.load_model(options.model)
    run = {
        "bits": lambda: bits(model),
        "rkv": lambda: rkv(model, options.tokens),
        "memory": lambda: memory(model, options.generated),
    }
    for part in options.parts:
        record = run_record.describe({**vars(options), "output": str(options.output)})
        ratio, found = run[part]()
        verdict = "holds" if ratio <= LIMITS[part] else "FAILS"
        print(f"{verdict:12s} {part}: {ratio:.3f} (at most {LIMITS[part]:g})")
        record |= {"part": part, "ratio": ratio, "limit": LIMITS[part], **found}
        path = options.output / f"{options.model}_decoding_{part}.json"
        write_json(path, record | {"finished": run_record.now()})
        print(f"written: {path}")
    return 0


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


def bits(model: Any) -> Found:
    """A token with entries of fewer bits, over one with entries as the model made them."""
    names = (16, 8, 4, 2)
    caches = {n: filled(model, headkv.build_method("fullkv", bits=n), ENTRIES) for n in names}
    seconds: dict[int, list[float]] = {n: [] for n in names}
    for turn in range(STEPS + 2):
        for n, cache in caches.items():
            spent = step(model, cache, ENTRIES + turn)
            if turn > 1:
                seconds[n].append(spent)
    middle = {n: statistics.median(each) for n, each in seconds.items()}
    found = {}
    for n in names:
        found[str(n)] = {
            "milliseconds": 1000 * middle[n],
            "of_16_bits": middle[n] / middle[16],
            "bytes": caches[n].kept_bytes,
        }
        print(
            f"{n:2d} bits: {1000 * middle[n]:7.2f} ms a token, "
            f"{middle[n] / middle[16]:.3f} of 16 bits, {caches[n].kept_bytes / 1e6:.1f} MB"
        )
    return middle[4] / middle[16], {"entries": ENTRIES, "bits": found}


def rkv_cache(model: Any) -> headkv.CompressedCache:
    """R-KV, cut to `SIZE` entries every `EVERY` tokens."""
    method = headkv.build_method("rkv", kv_size=SIZE, decode_kv_size=SIZE, compress_every=EVERY)
    return filled(model, method, SIZE)


def rkv(model: Any, tokens: int) -> Found:
    """R-KV over many tokens with its cuts, and between them the full cache at 1,024."""
    cache = rkv_cache(model)
    full = {
        "FullKV": filled(model, headkv.build_method("fullkv"), 1024),
        "DynamicCache": DynamicCache(config=model.config),
    }
    with torch.no_grad():
        model(torch.randint(3, 40000, (1, 1024)), past_key_values=full["DynamicCache"])
    own: list[float] = []
    others: dict[str, list[float]] = {name: [] for name in full}
    for turn in range(tokens):
        own.append(step(model, cache, SIZE + turn))
        if turn % 32 == 0:
            for name, other in full.items():
                others[name].append(step(model, other, 1024))
                other.crop(-1)
    mean = statistics.mean(own)
    print(f"R-KV {SIZE}: mean {1000 * mean:.2f} ms a token over {tokens:,}, cuts included")
    print(f"          median {1000 * statistics.median(own):.2f}, longest {1000 * max(own):.1f} ms")
    ratios = {name: mean / statistics.mean(spent) for name, spent in others.items()}
    for name, spent in others.items():
        print(
            f"{name} at 1,024: {1000 * statistics.mean(spent):.2f} ms a token; R-KV is "
            f"{ratios[name]:.3f} of it"
        )
    return ratios["DynamicCache"], {
        "tokens": tokens,
        "milliseconds": 1000 * mean,
        "longest_milliseconds": 1000 * max(own),
        "ratios": ratios,
    }


def memory(model: Any, generated: int) -> Found:
    """Most bytes of the second half of the tokens, over most of the first half."""
    cache = rkv_cache(model)
    held = []
    for turn in range(generated):
        step(model, cache, SIZE + turn)
        held.append(cache.nbytes)
    first, second = max(held[: generated // 2]), max(held[generated // 2 :])
    full = generated + SIZE
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    plain = 2 * config.num_hidden_layers * config.num_key_value_heads * width * full
    plain *= torch.finfo(model.dtype).bits // 8
    print(
        f"R-KV {SIZE} over {generated:,} generated tokens: at most {first / 1e6:.2f} MB in the "
        f"first half, {second / 1e6:.2f} in the second; a full cache holds {plain / 1e6:.1f}"
    )
    return second / first, {"tokens": generated, "peak_bytes": [first, second], "full_bytes": plain}


if __name__ == "__main__":
    sys.exit(front_door(main))
