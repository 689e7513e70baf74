"""Entries of fewer bits: what they stand for, what they weigh, and attention over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv import UserError
from headkv.kernels import attend, available
from headkv.kernels.offloaded import Offloaded, Tier
from headkv.kernels.packed import GROUP, Packed, entries_in_bytes_of
from headkv.kernels.prefixes import Mixed, plain, stack, stored
from headkv.kernels.quantised import Quantised
from headkv.kernels.ragged import Ragged

BACKENDS = [name for name in available(torch.device("cpu")) if name in ("segments", "triton")]


def entries(counts: torch.Tensor, width: int, biased: bool = False) -> Ragged:
    total = int(counts.sum())
    scales = torch.rand(width) * 5 + 0.1  # channels differ, as those of real keys do
    return Ragged(
        torch.randn(total, width) * scales + 1,
        torch.randn(total, width) * (torch.rand(total, 1) * 3),
        counts,
        torch.rand(total) * 3 if biased else None,
        {"position": torch.arange(total, dtype=torch.int32)},
    )


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_numbers_are_within_half_a_step_of_their_group(bits: int) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(3, GROUP, 128) * torch.rand(128) * 9
    for by_channel in (True, False):
        packed = Packed.of(numbers, bits, by_channel)
        cut = numbers if by_channel else numbers.unflatten(-1, (2, 64))
        dim = 1 if by_channel else -1
        spread = cut.amax(dim, keepdim=True) - cut.amin(dim, keepdim=True)
        error = (packed.numbers() - numbers).abs().view_as(cut)
        # Scales are rounded to float16: the last code of a group may be off by that too.
        assert bool((error <= spread * (0.5 / (2**bits - 1) + 2e-3)).all())
        assert packed.codes.numel() == numbers.numel() * bits // 8


def test_equal_numbers_stay_exact_and_outliers_stay_finite() -> None:
    flat = torch.full((1, GROUP, 16), 3.0)
    assert torch.equal(Packed.of(flat, 2, True).numbers(), flat)
    wild = torch.full((1, GROUP, 16), 3.0)
    wild[0, 0, 0] = 1e9
    assert bool(torch.isfinite(Packed.of(wild, 4, True).numbers()).all())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=16, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.sampled_from([8, 4, 2]),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.integers(1, 3),
    width=st.sampled_from([8, 16, 64, 128]),
    softcap=st.sampled_from([None, 5.0]),
    biased=st.booleans(),
)
def test_attention_is_that_over_the_numbers(
    backend, seed, bits, batch, heads, group, length, width, softcap, biased
) -> None:
    torch.manual_seed(seed)
    counts = torch.randint(1, 3 * GROUP, (batch, heads))
    counts[0, 0] = (seed % 3 + 1) * GROUP  # nothing left over
    prefix = Quantised.of(entries(counts, width, biased), bits)
    query = torch.randn(batch, heads * group, length, width)
    got = attend(query, prefix, 0.1, softcap, backend)
    numbers = prefix.plain(torch.float32)
    assert numbers.columns["position"].tolist() == list(range(int(counts.sum())))
    wanted = attend(query, numbers, 0.1, softcap, "reference")
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


def test_what_is_left_over_is_not_touched_and_bytes_are_counted() -> None:
    counts = torch.tensor([[2 * GROUP, 2 * GROUP + 5]])
    given_ = entries(counts, 64)
    prefix = Quantised.of(given_, 4)
    assert torch.equal(prefix.plain(torch.float32).keys[-5:], given_.keys[-5:])
    group = GROUP * 64 * 2 // 2 + 64 * 4 + GROUP * 4  # codes, scales of keys, scales of values
    assert prefix.entry_bytes == 4 * group + 5 * 64 * 2 * 4 + 4 * int(counts.sum())
    assert sum(prefix.row_bytes) == prefix.entry_bytes
    for bits, width in ((8, 64), (4, 64), (2, 128)):
        most = entries_in_bytes_of(128, bits, width)
        sizes = [Quantised.of(entries(torch.tensor([[n]]), width), bits) for n in (most, most + 1)]
        held = [
            each.keys.nbytes + each.values.nbytes + int(each.counts) % GROUP * width * 4
            for each in sizes
        ]
        assert held[0] <= 128 * width * 4 and (held[1] > 128 * width * 4 or most % GROUP == 63)


def test_sequences_held_in_several_ways_make_one_batch() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([[70, 200], [130, 128]])
    query = torch.randn(2, 4, 1, 16)
    made = [(bits, offload) for bits in (16, 4) for offload in (None, "layers", "heads")]
    alone = [stored(entries(counts, 16), bits, off, Tier(), 0) for bits, off in made]
    own = [attend(query, each, 0.2) for each in alone]
    batch = stack(alone)
    assert isinstance(batch, Mixed) and batch.counts.shape == (12, 2)
    together = attend(query.repeat(6, 1, 1, 1), batch, 0.2)
    assert torch.allclose(together[0], torch.cat([each for each, _ in own]), atol=1e-5)
    rows = [11, 0, 3, 3]
    some = attend(query.repeat(6, 1, 1, 1)[rows], batch.select(rows), 0.2)
    assert torch.allclose(some[0], together[0][rows], atol=1e-5)
    assert torch.allclose(some[1], together[1][rows], atol=1e-5)
    assert sum(batch.row_bytes) == batch.entry_bytes
    assert plain(batch, torch.float32).counts.tolist() == batch.counts.tolist()


@pytest.mark.parametrize("offload", ["layers", "heads"])
def test_two_layers_are_on_the_device_at_most(offload: str) -> None:
    torch.manual_seed(0)
    tier = Tier()
    given_ = [entries(torch.tensor([[90, 30, 60]]), 16) for _ in range(5)]
    held = [stored(each, 16, offload, tier, layer) for layer, each in enumerate(given_)]
    query = torch.randn(1, 3, 1, 16)
    for _ in range(3):
        for layer, each in enumerate(held):
            wanted = attend(query, given_[layer], 0.2)
            got = attend(query, each, 0.2)
            assert torch.allclose(got[0], wanted[0], atol=1e-6)
    one = (180 if offload == "layers" else 90) * (16 * 2 * 4 + 4)
    assert tier.peak_bytes == 2 * one
    first = held[0]
    assert isinstance(first, Offloaded) and first.host.keys.device.type == "cpu"
    assert torch.equal(first.back().keys, given_[0].keys)
    assert tier.fetched == 3 * 5  # one a layer and token


def test_bits_that_no_backend_reads_are_refused() -> None:
    prefix = Quantised.of(entries(torch.tensor([[70]]), 16), 4)
    with pytest.raises(UserError, match="does not read entries of fewer than 16 bits"):
        attend(torch.randn(1, 1, 1, 16), prefix, 0.2, backend="reference")
    with pytest.raises(UserError, match="whole bytes"):
        Packed.of(torch.randn(1, GROUP, 6), 2, True)
