"""Contexts compressed for a probe, against eager attention and a cache that is cut by hand."""

import math

import pytest
import torch
from transformers import DynamicCache

from headkv import CompressedCache, UserError, build_method, prefill
from headkv.generation.batch import start
from headkv.generation.prefill import kept_positions
from headkv.generation.task_aware import compress_contiguous, compress_in_chunks

PROBE = [11, 12, 13, 14, 15]
TOKENS, LAYERS, KV_HEADS, GROUP = 60, 3, 2, 3


@pytest.fixture(scope="module")
def context() -> list[int]:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, 97, (TOKENS,), generator=generator).tolist()


def turned(row: torch.Tensor, by: int, theta: float) -> torch.Tensor:
    """RoPE of one key, `by` positions on."""
    half, out = len(row) // 2, row.double().tolist()
    for i in range(half):
        angle = by / theta ** (2 * i / len(row))
        a, b = float(row[i]), float(row[i + half])
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return torch.tensor(out, dtype=torch.float64)


def finch(weights: torch.Tensor, tokens: int, head: int) -> list[float]:
    """Scores of all tokens but the last: weights of the probe, times what each query sees."""
    probe, scores = weights.shape[1], [0.0] * (tokens - 1)
    for query in range(GROUP * head, GROUP * (head + 1)):
        for i in range(probe):
            for token in range(tokens - 1):
                scores[token] += float(weights[query, i, token]) * (tokens + i + 1)
    return scores


def best(scores: list[float], count: int) -> list[int]:
    order = sorted(range(1, len(scores)), key=lambda token: (-scores[token], token))
    return sorted([0, *order[: count - 2], len(scores)])


def test_one_chunk_by_the_steps_of_finch(tiny, eager, context) -> None:
    """Any number of cells share the prefill; a batch is as its rows alone."""
    method = build_method("beyond_rag", 20)
    with torch.no_grad():
        out = eager(input_ids=torch.tensor([context + PROBE]), output_attentions=True)
    wanted = [
        [best(finch(weights[0, :, TOKENS:], TOKENS, head), 20) for head in range(KV_HEADS)]
        for weights in out.attentions
    ]
    others = [build_method("snapkv", 30), build_method("cake", 25)]
    inputs = {"input_ids": torch.tensor([context])}
    prefilled = prefill(tiny, inputs, methods=[method, *others], probes=[PROBE])
    got = [[head.tolist() for head in layer] for layer in kept_positions(prefilled, method)]
    assert got == wanted and prefilled.lengths == [TOKENS]
    assert prefilled.nbytes == prefill(tiny, inputs).nbytes
    short = [0] * 20 + context[:40]
    mask = torch.tensor([[1] * TOKENS, [0] * 20 + [1] * 40])
    padded = {"input_ids": torch.tensor([context, short]), "attention_mask": mask}
    batch = prefill(tiny, padded, methods=[method], probes=[PROBE, PROBE])
    alone = prefill(tiny, {"input_ids": torch.tensor([context[:40]])}, probes=[PROBE])
    for row, single in ((0, prefilled), (1, alone)):
        together = kept_positions(batch, method, row)
        for a, b in zip(together, kept_positions(single, method), strict=True):
            assert [head.tolist() for head in a] == [head.tolist() for head in b]


@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("rerotate", [False, True])
def test_chunks_by_hand(chunks: int, rerotate: bool, tiny, eager, context) -> None:
    """Eager attention over a cache that is cut, and turned, key by key."""
    size, theta = 18, tiny.config.rope_parameters["rope_theta"]
    kept = None
    for number in range(1, chunks + 1):
        piece = context[(number - 1) * TOKENS // chunks : number * TOKENS // chunks]
        cache = DynamicCache()
        for layer in range(LAYERS if kept else 0):
            keys, values, _ = kept[layer]
            cache.update(keys[None].float(), values[None].float(), layer)
        before = kept[0][0].shape[1] if kept else 0
        first = before if rerotate else (number - 1) * TOKENS // chunks
        fed = torch.tensor([piece + PROBE])
        with torch.no_grad():
            out = eager(
                input_ids=fed,
                position_ids=first + torch.arange(fed.shape[1])[None],
                past_key_values=cache,
                output_attentions=True,
            )
        share = math.ceil(size * number / chunks)
        new = []
        for layer in range(LAYERS):
            weights = out.attentions[layer][0, :, len(piece) :]
            seen = before + len(piece)
            held = cache.layers[layer]
            sides = [side[0, :, :seen].double() for side in (held.keys, held.values)]
            olds = kept[layer][2] if kept else [[]] * KV_HEADS
            heads = []
            for head in range(KV_HEADS):
                chosen = best(finch(weights, seen, head), share)
                places = [*olds[head], *range(first, first + len(piece))]
                keys = [sides[0][head, t] for t in chosen]
                positions = [places[t] for t in chosen]
                if rerotate:
                    moved = enumerate(zip(keys, positions, strict=True))
                    keys = [turned(key, rank - old, theta) for rank, (key, old) in moved]
                    positions = list(range(share))
                heads.append((torch.stack(keys), sides[1][head, chosen], positions))
            new.append(
                (
                    torch.stack([h[0] for h in heads]),
                    torch.stack([h[1] for h in heads]),
                    [h[2] for h in heads],
                )
            )
        kept = new
    method = build_method("beyond_rag", size)
    got = compress_in_chunks(tiny, [context], method, [PROBE], chunks, rerotate)
    assert got.kept_tokens.tolist() == [[[size] * KV_HEADS] * LAYERS]
    assert got.next_positions == [size if rerotate else TOKENS]
    for prefix, (keys, values, _) in zip(got.prefixes, kept, strict=True):
        assert torch.allclose(prefix.keys.double(), keys.flatten(0, 1), atol=1e-4)
        assert torch.allclose(prefix.values.double(), values.flatten(0, 1), atol=1e-4)


@pytest.mark.parametrize("name", ["adakv", "lava", "cake", "snapkv"])
def test_unequal_heads_in_chunks(name: str, tiny, context) -> None:
    """Heads that hold less are filled up with rows that nobody attends to, and nobody keeps."""
    method = build_method(name, 24)
    rows = [context, context[:47]]
    got = compress_in_chunks(tiny, rows, method, [PROBE, PROBE], 3)
    assert got.kept_tokens.sum(dim=(1, 2)).tolist() == [24 * LAYERS * KV_HEADS] * 2
    for prefix in got.prefixes:
        assert bool((prefix.keys.norm(dim=1) > 0).all())
    one = compress_in_chunks(tiny, rows[1:], method, [PROBE], 3)
    for both, alone in zip(got.prefixes, one.prefixes, strict=True):
        assert torch.allclose(both.select([1]).keys, alone.keys, atol=1e-5)
    whole = compress_in_chunks(tiny, [context], method, [PROBE], 1)
    shared = prefill(tiny, {"input_ids": torch.tensor([context])}, probes=[PROBE])
    for a, b in zip(whole.prefixes, shared.compress(method).prefixes, strict=True):
        assert torch.equal(a.counts, b.counts) and torch.allclose(a.keys, b.keys, atol=1e-5)


def test_contiguous_keys_keep_their_distances(tiny, context) -> None:
    """Every head ends where the question begins; its keys are turned by as much as they moved."""
    theta = tiny.config.rope_parameters["rope_theta"]
    method = build_method("adakv", 20)
    prefilled = prefill(tiny, {"input_ids": torch.tensor([context])})
    plain, cache = prefilled.compress(method), compress_contiguous(prefilled, method)
    end = int(plain.kept_tokens.max())
    assert cache.next_positions == [end]
    positions = kept_positions(prefilled, method)
    for layer, (before, after) in enumerate(zip(plain.prefixes, cache.prefixes, strict=True)):
        assert torch.equal(before.values, after.values)
        row = 0
        for head in positions[layer]:
            for rank, position in enumerate(head.tolist()):
                by = end - len(head) + rank - position
                wanted = turned(before.keys[row], by, theta)
                assert torch.allclose(after.keys[row].double(), wanted, atol=1e-5)
                row += 1
    batch = start(tiny, prefilled, [plain, cache], [[5, 6]])
    assert batch.positions.tolist() == [[TOKENS + 2], [end + 2]]
    full = compress_contiguous(prefilled, build_method("fullkv"))
    assert full.next_positions is None and isinstance(full, CompressedCache)


def test_what_cannot_be_done_in_chunks_is_named(tiny, context) -> None:
    for name, changes, words in (
        ("kvzip", {}, "kvzip, which reads repetition"),
        ("snapkv", {"granularity": "query_head"}, "granularity=query_head"),
        ("balancekv", {}, "entries balance"),
    ):
        with pytest.raises(UserError, match=words):
            compress_in_chunks(tiny, [context], build_method(name, 30, **changes), [PROBE], 2)
