"""Entries cut again while an answer is decoded, through plain `model.generate`."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from headkv import CompressedCache, Stopping, UserError, decode, prefill
from headkv.config import names
from headkv.generation.batch import start
from headkv.generation.decoding import answer
from headkv.generation.occupancy import Occupancy
from headkv.methods import Evidence, Method
from headkv.methods.held import HeldEvidence

STEPS = 20
Build = Callable[..., Method]


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Two prompts of 60 and 43 tokens, left-padded."""
    ids = torch.randint(3, 97, (2, 60), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :17] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def generate(generate):
    return lambda model, inputs, cache, steps=STEPS: generate(model, inputs, cache, steps)


@pytest.fixture(scope="module")
def build(make_method) -> Build:
    def build(name: str | None = "snapkv", kv_size: int = 20, **parameters: object) -> Method:
        return make_method(name, kv_size, **parameters)

    return build


CELLS = [
    *((name, "kv_head") for name in names("method") if not name.startswith("headkv_r_")),
    *((name, "query_head") for name in ("snapkv", "adakv", "headkv_r2")),
]


@pytest.mark.parametrize(("name", "granularity"), CELLS)
def test_every_method_cuts_to_its_budget_alone_and_in_a_batch(
    generate,
    tiny: LlamaForCausalLM,
    inputs: dict[str, torch.Tensor],
    name: str,
    granularity: str,
    build: Build,
) -> None:
    try:
        method = build(name, granularity=granularity, decode_kv_size=24, compress_every=8)
    except UserError as problem:  # by name, in one line
        assert name.split("_")[0] in str(problem) or "scorer" in str(problem)
        return
    if method.decode_kv_size is None:
        return
    cache = CompressedCache(tiny.config, method)
    try:
        together, logits = generate(tiny, inputs, cache)
    except UserError as problem:
        assert "lists of different lengths" in str(problem)
        return
    stored = cache.kept_tokens.shape[2]
    assert int(cache.kept_tokens.sum((1, 2)).max()) <= 24 * 3 * stored
    for row in range(2):
        first = int((inputs["attention_mask"][row] == 0).sum())
        alone = {key: value[row : row + 1, first:] for key, value in inputs.items()}
        single = CompressedCache(tiny.config, method)
        tokens, own = generate(tiny, alone, single)
        assert torch.equal(tokens[0], together[row])
        assert float((own[0] - logits[row]).abs().max()) < 1e-3
        for layer, head in product(range(3), range(stored)):
            positions = cache.positions[row][layer][head]
            own_positions = single.positions[0][layer][head]
            if name == "cur" and layer == 0:  # equal tokens tie but for rounding, see CurScorer
                text = torch.cat([alone["input_ids"][0], tokens[0]])
                positions, own_positions = text[positions].sort()[0], text[own_positions].sort()[0]
            assert torch.equal(positions, own_positions)
            positions = cache.positions[row][layer][head]
            assert positions.tolist() == sorted(set(positions.tolist()))
            last = 60 - first + STEPS - 1 - cache.tail_length
            assert int(positions[-1]) == last - 1 and int(positions[0]) == 0
    prefilled = prefill(tiny, inputs, methods=[method])
    cells = [method, build("fullkv", granularity=granularity), method]
    answers = decode(
        tiny, prefilled, [prefilled.compress(cell) for cell in cells], Stopping(STEPS, ())
    )
    assert answers[0] == answers[2] == together.tolist()
    full, _ = generate(tiny, inputs, DynamicCache(config=tiny.config))
    assert answers[1] == full.tolist()


def test_interval_beyond_the_answer_and_budget_beyond_the_length_change_nothing(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build: Build
) -> None:
    _, plain = generate(tiny, inputs, CompressedCache(tiny.config, build()))
    late = CompressedCache(tiny.config, build(decode_kv_size=24, compress_every=500))
    assert torch.equal(generate(tiny, inputs, late)[1], plain)
    large = CompressedCache(tiny.config, build(decode_kv_size=500, compress_every=8))
    assert torch.allclose(generate(tiny, inputs, large)[1], plain, atol=1e-4)
    assert large.kept_tokens.tolist() == [[[20 + 16] * 2] * 3] * 2


@pytest.mark.parametrize("name", ["snapkv", "adakv", "headkv_r2"])
def test_cutting_often_and_keeping_all_is_the_full_cache(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], name: str, build: Build
) -> None:
    wanted, logits = generate(tiny, inputs, DynamicCache(config=tiny.config))
    method = build(name, 200, decode_kv_size=200, compress_every=8)
    got, own = generate(tiny, inputs, CompressedCache(tiny.config, method))
    assert torch.equal(got, wanted) and torch.allclose(own, logits, atol=1e-4)


def test_streaming_keeps_sinks_and_the_latest(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build: Build
) -> None:
    method = build("streamingllm", decode_kv_size=24, compress_every=10)
    cache = CompressedCache(tiny.config, method)
    generate(tiny, inputs, cache, 41)
    wanted = [0, 1, 2, 3, *range(60 + 40 - 20, 60 + 40)]
    assert all(head.tolist() == wanted for layer in cache.positions[0] for head in layer)


def test_cut_is_what_the_scorer_says_of_the_whole_text(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build: Build
) -> None:
    """Where nothing was cut before, cutting while decoding is compressing the longer prompt."""
    alone = {"input_ids": inputs["input_ids"][:1]}
    for name, size in (("snapkv", 30), ("rkv", 30), ("pyramidkv", 30), ("headkv_r", 30)):
        cache = CompressedCache(tiny.config, build(name, 60, decode_kv_size=size, compress_every=8))
        tokens, _ = generate(tiny, alone, cache, 9)
        text = torch.cat([alone["input_ids"], tokens[:, :8]], 1)
        longer = prefill(tiny, {"input_ids": text}).compress(build(name, size))
        assert torch.equal(cache.kept_tokens, longer.kept_tokens)
        for got, wanted in zip(cache.prefixes, longer.prefixes, strict=True):
            assert torch.allclose(got.keys, wanted.keys, atol=1e-4)


def test_several_turns_and_chunks_end_where_single_tokens_do(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build: Build
) -> None:
    method = build("rkv", decode_kv_size=24, compress_every=8)
    prefilled = prefill(tiny, inputs, methods=[method])
    more = torch.randint(3, 97, (2, 21), generator=torch.Generator().manual_seed(5))
    single, chunk = (start(tiny, prefilled, [prefilled.compress(method)]) for _ in range(2))
    logits = torch.cat([single.feed(tiny, more[:, i : i + 1]) for i in range(21)], 1)
    fork = chunk.fork()
    assert torch.allclose(chunk.feed(tiny, more), logits, atol=1e-4)
    last = [each.feed(tiny, more[:, :9], keep=1) for each in (chunk, single)]
    assert last[0].shape[1] == 1 and torch.allclose(*last, atol=1e-4)
    assert torch.allclose(fork.feed(tiny, more), logits, atol=1e-4)  # saw nothing of the other

    cache = CompressedCache(tiny.config, method)
    first, _ = generate(tiny, inputs, cache, 10)
    turn = torch.cat([inputs["input_ids"], first, more], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 31, dtype=torch.long)], 1)
    second, _ = generate(tiny, {"input_ids": turn, "attention_mask": mask}, cache, 10)
    assert second.shape == (2, 10) and int(cache.kept_tokens.max()) <= 24


def test_memory_stays_bounded_and_what_is_held_is_counted(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build: Build
) -> None:
    method = build("rkv", decode_kv_size=32, compress_every=16)
    prefilled = prefill(tiny, inputs, methods=[method])
    sizes = []
    for steps in (64, 192):
        cache = prefilled.compress(method)
        batch, occupancy = start(tiny, prefilled, [cache]), Occupancy(2)
        answer(tiny, batch, Stopping(steps, ()), occupancy=occupancy)
        sizes.append([each.as_row() for each in occupancy.held])
        assert cache.nbytes < 2 * 3 * 2 * 48 * (16 * 2 * 4 + 4) * 1.5
    entry = 16 * 2 * 4
    for short, long in zip(*sizes, strict=True):
        assert short["peak_entries"] == long["peak_entries"] == 3 * 2 * (32 + 16)
        recent = 3 * 6 * 8 * 16 * 4  # queries of the window
        assert long["peak_bytes"] == 3 * 2 * ((32 + 16) * entry + 32 * 4) + recent  # 4: positions
        assert 32 * 6 * 0.8 < long["mean_entries"] < 48 * 6


def test_accumulated_attention_goes_on_over_cuts() -> None:
    """The sum over all queries, of which the first part was worked out with fewer entries."""
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 30, 16), torch.randn(2, 30, 16)
    whole = Evidence(queries, keys, 0).accumulated_attention
    past = Evidence(queries[:, :20], keys[:, :20], 0).accumulated_attention
    paid = torch.cat([past, torch.zeros(4, 10)], 1)
    held = HeldEvidence(queries[:, 15:], keys, 0, paid=paid, unpaid=10)
    assert torch.allclose(held.accumulated_attention, whole, atol=1e-5)


def test_mistakes_are_one_line(tiny: LlamaForCausalLM, build: Build) -> None:
    for parameters, words in (
        ({"decode_kv_size": 64, "compress_every": 4}, "below snapkv's window of 8"),
        ({"decode_kv_size": 8}, "does not exceed"),
        ({"compress_every": 64}, "no decode_kv_size"),
        ({"decode_kv_size": 0.5}, "decode_kv_size=0.5"),
        ({"bits": 3}, "no kernel reads"),
        ({"offload": "disk"}, "offload"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            build("snapkv", 40, **parameters)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    cells = [build(decode_kv_size=24, compress_every=every) for every in (8, 16)]
    ids = torch.randint(3, 97, (1, 40))
    prefilled = prefill(tiny, {"input_ids": ids})
    with pytest.raises(UserError, match="one compress_every a batch"):
        decode(tiny, prefilled, [prefilled.compress(cell) for cell in cells], Stopping(3, ()))
    cache = prefilled.compress(cells[0])
    with pytest.raises(UserError, match="is cut while decoding"):
        cache.layers[0].crop(-1)
