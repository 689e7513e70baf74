"""Scoring heads in one reduction against a loop over heads and positions, both of one decode step.

    .venv/bin/python bench/head_rules.py

The loops are as published: for every layer and head, top-k, and then key by key a comparison of
one-element tensors and `.item()`. Both sides get the same attention rows, on the shapes of
SmolLM2-135M (30 layers, 9 heads) over 1,024 prompt tokens with a needle of 12, and must give the
same scores.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from headkv.calibration.rules import RULES

LAYERS, HEADS, TOKENS, SPAN = 30, 9, 1024, (500, 512)
WANTED = 30.0  # times as fast
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Rows of one step `[layer, head, 1, token]`, the token generated `[1]`, and the prompt's."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(LAYERS, HEADS, 1, TOKENS, generator=generator)
    logits[::3, ::2, :, SPAN[0] : SPAN[1]] += 8  # some heads look at the needle
    prompt = torch.randint(0, 50, (TOKENS,), generator=generator)
    return logits.softmax(-1), prompt[SPAN[0] + 3, None], prompt


def retrieval(rows: Tensor, generated: Tensor, prompt: Tensor) -> Tensor:
    """The loop over heads, and over the one strongest key of each."""
    start, end = SPAN
    scores = torch.zeros(LAYERS, HEADS, dtype=torch.float64)
    for layer in range(LAYERS):
        for head in range(HEADS):
            for key in rows[layer, head, 0].topk(1).indices:
                if start <= key < end and generated.item() == prompt[key].item():
                    scores[layer, head] += 1 / (end - start)
    return scores


def retrieval_reasoning(rows: Tensor, generated: Tensor, prompt: Tensor) -> Tensor:
    """The loop over heads and the N strongest keys of each."""
    start, end = SPAN
    scores = torch.zeros(LAYERS, HEADS, dtype=torch.float64)
    for layer in range(LAYERS):
        for head in range(HEADS):
            strongest = rows[layer, head, 0].topk(end - start)
            for value, key in zip(strongest.values, strongest.indices, strict=True):
                if start <= key < end:
                    scores[layer, head] += value.item() / (end - start)
    return scores


def semantic(rows: Tensor, generated: Tensor, prompt: Tensor) -> Tensor:
    """The loop over heads and the positions of the span."""
    start, end = SPAN
    scores = torch.zeros(LAYERS, HEADS, dtype=torch.float64)
    for layer in range(LAYERS):
        for head in range(HEADS):
            for position in range(start, end):
                if prompt[position].item() == generated.item():
                    scores[layer, head] += rows[layer, head, 0, start:end].sum().item()
    return scores


LOOPS: dict[str, Step] = {
    "retrieval": retrieval,
    "retrieval_reasoning": retrieval_reasoning,
    "semantic": semantic,
}


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Shortest time of a call: what else the machine did is not in it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Prints milliseconds and the ratio of every rule; 1 if one is below `WANTED`."""
    rows, generated, prompt = example()
    print(
        f"one decode step, {LAYERS} x {HEADS} heads, {TOKENS} keys, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'rule':<20}  {'loop, ms':>9}  {'ours, ms':>9}  {'ratio':>6}")
    slow = False
    for name, loop in LOOPS.items():
        rule = RULES[name]
        torch.testing.assert_close(
            rule(rows, generated, prompt, SPAN), loop(rows, generated, prompt)
        )
        looped = seconds(lambda: loop(rows, generated, prompt), 5)  # noqa: B023
        ours = seconds(lambda: rule(rows, generated, prompt, SPAN), 50)  # noqa: B023
        slow |= looped / ours < WANTED
        print(f"{name:<20}  {1e3 * looped:>9.2f}  {1e3 * ours:>9.3f}  {looped / ours:>6.0f}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
