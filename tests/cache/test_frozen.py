"""A decode step at fixed addresses: the same numbers, one graph, nothing asked of the device."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import headkv
from headkv.cache import CompressedCache
from headkv.errors import UserError
from headkv.generation.prefill import prefill
from headkv.kernels.frozen import Frozen, attend_frozen
from headkv.kernels.ragged import Ragged
from headkv.kernels.reference import attend as reference

STEPS = 4


def filled(model, inputs, name: str, **settings) -> CompressedCache:
    method = headkv.build_method(name, kv_size=12, **settings)
    return prefill(model, inputs).compress(method)


def feed(forward, cache, inputs, steps: int = STEPS, tokens: int = 1) -> torch.Tensor:
    """Logits of some fixed tokens behind the prompts."""
    lengths = inputs["attention_mask"].sum(1, keepdim=True)
    ids = torch.arange(3, 3 + len(lengths) * steps * tokens).view(len(lengths), -1) % 90
    found = []
    for step in range(steps):
        part = slice(step * tokens, (step + 1) * tokens)
        with torch.no_grad():
            output = forward(
                input_ids=ids[:, part],
                position_ids=lengths + torch.arange(part.start, part.stop),
                past_key_values=cache,
                use_cache=True,
            )
        found.append(output.logits)
    return torch.cat(found, 1)


@pytest.fixture
def inputs(batch):
    made = batch()
    return {"input_ids": made["input_ids"] % 97, "attention_mask": made["attention_mask"]}


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("name", ["fullkv", "snapkv", "adakv"])
def test_frozen_caches_say_the_same(tiny, inputs, name: str, tokens: int) -> None:
    """Equal heads, uneven heads, and sequences that hold unequally many."""
    usual = feed(tiny, filled(tiny, inputs, name), inputs, tokens=tokens)
    cache = filled(tiny, inputs, name)
    kept, prompt = cache.kept_tokens, cache.kept_bytes
    cache.freeze(STEPS * tokens)
    torch.testing.assert_close(feed(tiny, cache, inputs, tokens=tokens), usual, atol=1e-5, rtol=0)
    assert torch.equal(cache.kept_tokens, kept) and cache.kept_bytes == prompt
    assert cache.tail_length == STEPS * tokens


def test_one_graph_serves_all_steps_and_prompts(tiny, inputs) -> None:
    """`fullgraph=True`: nothing falls back to Python; further steps and prompts compile nothing."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(tiny.forward, backend=counter, fullgraph=True)
    for round_ in range(3):
        inputs["input_ids"] = inputs["input_ids"].roll(round_, 1) * inputs["attention_mask"]
        usual = feed(tiny, filled(tiny, inputs, "adakv"), inputs)
        cache = filled(tiny, inputs, "adakv")
        cache.freeze(STEPS)
        torch.testing.assert_close(feed(step, cache, inputs), usual, atol=1e-5, rtol=0)
        assert counter.frame_count <= 1 + (round_ > 0)  # a second one for other numbers of entries
    torch._dynamo.reset()


class Watched(TorchDispatchMode):
    """Counts what makes the host wait for the device: a tensor read as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "equal.default")):
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_asks_the_device_nothing_and_moves_nothing(tiny, inputs) -> None:
    cache = filled(tiny, inputs, "adakv")
    cache.freeze(STEPS)
    held = [t for layer in cache.layers for t in (layer.keys, layer.values, layer.length)]
    held += [tensor for layer in cache.layers for tensor in layer.frozen.tensors()]
    addresses, size = [each.data_ptr() for each in held], cache.nbytes
    with Watched() as watched:
        feed(tiny, cache, inputs)
    assert watched.reads == []
    assert [each.data_ptr() for each in held] == addresses and cache.nbytes == size


def test_stock_generate_goes_on_from_a_frozen_cache(tiny, inputs) -> None:
    alone = {name: side[:1] for name, side in inputs.items()}
    answers = []
    for frozen in (False, True):
        prefilled = prefill(tiny, alone)
        cache = prefilled.compress(headkv.build_method("snapkv", kv_size=12))
        if frozen:
            cache.freeze(8)
        ids = torch.cat([alone["input_ids"], prefilled.next_token], 1)
        answers.append(
            tiny.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                max_new_tokens=6,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        )
    assert torch.equal(*answers)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("counts", [[[5, 5], [5, 5]], [[1, 300, 9]], [[4, 9], [7, 6]], [[3], [8]]])
def test_the_op_equals_dense_attention(counts: list, biased: bool, softcap) -> None:
    torch.manual_seed(0)
    held = torch.tensor(counts)
    entries = int(held.sum())
    prefix = Ragged(
        torch.randn(entries, 16),
        torch.randn(entries, 16),
        held,
        torch.rand(entries) * 4 if biased else None,
    )
    query = torch.randn(len(held), 2 * held.shape[1], 3, 16)
    got = Frozen.of(prefix).attend(query, 0.3, softcap)
    for mine, wanted in zip(got, reference(query, prefix, 0.3, softcap), strict=True):
        torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=0)


def test_the_op_is_what_its_fake_says() -> None:
    made = Frozen.of(Ragged(torch.randn(9, 8), torch.randn(9, 8), torch.tensor([[2, 7]])))
    rest = (made.bias, made.owner, made.table, made.starts, made.whole, made.blocks, made.uniform)
    arguments = (torch.randn(1, 4, 1, 8), made.keys, made.values, *rest, 0.3, None)
    torch.library.opcheck(attend_frozen, arguments, test_utils=("test_schema", "test_faketensor"))


def test_what_cannot_be_frozen_is_refused(tiny, inputs) -> None:
    used = filled(tiny, inputs, "snapkv")
    feed(tiny, used, inputs, steps=1)
    for cache in (used, filled(tiny, inputs, "snapkv", bits=4)):
        with pytest.raises(UserError, match=r"freez"):
            cache.freeze(8)
    cache = filled(tiny, inputs, "snapkv")
    cache.freeze(8)
    feed(tiny, cache, inputs, steps=2)
    cache.crop(-2)
    for wrong in (lambda: cache.crop(-1), lambda: cache.reorder_cache(torch.tensor([1, 0]))):
        with pytest.raises(UserError, match=r"crop|frozen"):
            wrong()
    with pytest.raises(UserError, match="empty"):
        CompressedCache(tiny.config, headkv.build_method("snapkv", kv_size=12)).freeze(8)
    assert not used.is_compileable and cache.is_compileable
