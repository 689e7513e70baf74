"""One decode step over a compressed 32k prompt, every backend this GPU machine has.

    python bench/gpu_decode.py results/gpu/decode.json

Heads of an 8B Llama: 32 query heads, 8 KV heads, 128 wide, bfloat16. A budget of so many entries a
head on average is spent equally (as SnapKV does) and skewed (as HeadKV does), and the full cache
stands beside both. Each case has enough layers, each with keys of its own, to be several times the
L2 cache. A step reads every key and value once, so the floor is their bytes over the bandwidth that
a large copy reaches on the same GPU, measured here.

Every backend is checked against `reference` first; a case that disagrees or fails is reported with
the reason, and the exit code is 1. `eager_us` includes Python and launches; `graph_us` is a CUDA
graph's replay, the GPU's time alone.
"""

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headkv.kernels import attend, available
from headkv.kernels.ragged import Ragged
from headkv.methods.allocators.sharing import distribute

QUERY_HEADS, KV_HEADS, WIDTH, PROMPT = 32, 8, 128, 32_768
WORKING_SET = 2**29  # bytes that a case's layers hold together, or more
TOLERANCE = 2e-2  # bfloat16 outputs of unit-variance values
REPEATS = 20


def counts(kv_size: int, skewed: bool, batch: int, seed: int) -> Tensor:
    """Entries of each head, int64 `[batch, kv_head]`, `kv_size` on average."""
    if not skewed:
        return torch.full((batch, KV_HEADS), kv_size)
    weights = torch.rand(batch, KV_HEADS, generator=torch.Generator().manual_seed(seed)) ** 6
    base = torch.zeros(KV_HEADS)
    total, low = kv_size * KV_HEADS, min(32, kv_size)
    return torch.stack([distribute(total, base, row, low, PROMPT) for row in weights])


def layer(held: Tensor) -> tuple[Tensor, Ragged]:
    """A layer's new queries `[batch, query_head, 1, WIDTH]` and its prefix."""
    entries = int(held.sum())
    made = {"dtype": torch.bfloat16, "device": "cuda"}
    prefix = Ragged(torch.randn(entries, WIDTH, **made), torch.randn(entries, WIDTH, **made), held)
    return torch.randn(len(held), QUERY_HEADS, 1, WIDTH, **made), prefix


def timed_us(step: Callable[[], Any]) -> float:
    """Median of `REPEATS` runs on the GPU's clock, in microseconds, after three to warm up."""
    times = []
    for run in range(REPEATS + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        if run >= 3:
            times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def copy_bytes_per_us() -> float:
    """Bytes read and written by a copy of 1 GiB, per microsecond."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed_us(lambda: target.copy_(source))


def measure(backend: str, layers: list[tuple[Tensor, Ragged]]) -> dict[str, Any]:
    """Error against the reference and time of a step, per layer."""
    query, prefix = layers[0]
    output, lse = attend(query, prefix, WIDTH**-0.5, backend=backend)
    wanted, wanted_lse = attend(query, prefix, WIDTH**-0.5, backend="reference")
    errors = {
        "output_error": float((output.float() - wanted.float()).abs().max()),
        "lse_error": float((lse - wanted_lse).abs().max()),
    }

    def step() -> None:
        for each_query, each_prefix in layers:
            attend(each_query, each_prefix, WIDTH**-0.5, backend=backend)

    eager_us = timed_us(step) / len(layers)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return {
        **errors,
        "agrees": max(errors.values()) < TOLERANCE,
        "eager_us": eager_us,
        "graph_us": timed_us(graph.replay) / len(layers),
    }


def case(
    name: str, kv_size: int, batch: int, tiles: list[int], bytes_per_us: float
) -> list[dict[str, Any]]:
    """One row for each backend; Triton also for each tile size."""
    of_a_layer = 2 * 2 * WIDTH * kv_size * KV_HEADS * batch
    number = -(-WORKING_SET // of_a_layer)
    layers = [layer(counts(kv_size, name == "skewed", batch, seed)) for seed in range(number)]
    rows = []
    backends = available(torch.device("cuda", torch.cuda.current_device()))
    for backend in [name for name in backends if name != "reference"]:
        for tile in tiles if backend == "triton" else [None]:
            if tile is not None:
                importlib.import_module("headkv.kernels.triton_decode").TILE = tile
            row: dict[str, Any] = {
                "case": name,
                "kv_size": kv_size,
                "batch": batch,
                "layers": number,
                "backend": backend,
                "tile": tile,
                "bytes": of_a_layer,
                "floor_us": of_a_layer / bytes_per_us,
                "longest": max(max(prefix.lengths) for _, prefix in layers),
            }
            try:
                row |= measure(backend, layers)
            except Exception as error:  # one backend's failure must not lose the others' numbers
                row |= {"agrees": False, "error": f"{type(error).__name__}: {error}"}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> int:
    """Returns the exit code: 1 if a backend disagreed or failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--kv-sizes", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tiles", type=int, nargs="+", default=[256], help="of Triton")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: gpu_decode.py measures a CUDA GPU, and there is none", file=sys.stderr)
        return 2
    bytes_per_us = copy_bytes_per_us()
    cases = [(name, size) for size in given.kv_sizes for name in ("equal", "skewed")]
    rows: list[dict[str, Any]] = []
    for batch in given.batches:
        for name, kv_size in [*cases, ("full", PROMPT)]:
            rows += case(name, kv_size, batch, given.tiles, bytes_per_us)
            torch.cuda.empty_cache()
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_gb_per_s": bytes_per_us / 1000,
        "rows": rows,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(report, indent=1))
    return 0 if all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
