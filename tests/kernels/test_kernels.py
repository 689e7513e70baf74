"""Ragged attention in every backend against a dense softmax written here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv.kernels import (
    Tiled,
    attend,
    attend_token,
    available,
    causal_attention,
    causal_tail,
    join,
    serves,
    stack,
)
from headkv.kernels import segments as segments_backend
from headkv.kernels.ragged import Ragged

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def ragged(counts: torch.Tensor, head_dim: int, dtype: torch.dtype, biased: bool = False) -> Ragged:
    entries = int(counts.sum())
    return Ragged(
        torch.randn(entries, head_dim, dtype=dtype),
        torch.randn(entries, head_dim, dtype=dtype),
        counts,
        torch.rand(entries) * 4 if biased else None,
    )


def expected(
    query: torch.Tensor, prefix: Ragged, scaling: float, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One head at a time, in float64."""
    batch, heads, _, _ = query.shape
    stored = prefix.counts.shape[1]
    outputs, sums = [], []
    for row in range(batch):
        for head in range(heads):
            segment = row * stored + head // (heads // stored)
            span = slice(prefix.bounds[segment], prefix.bounds[segment + 1])
            logits = query[row, head].double() @ prefix.keys[span].double().T * scaling
            if softcap is not None:
                logits = torch.tanh(logits / softcap) * softcap
            if prefix.bias is not None:
                logits = logits + prefix.bias[span].double()
            outputs.append(logits.softmax(-1) @ prefix.values[span].double())
            sums.append(logits.logsumexp(-1))
    shape = (batch, heads, query.shape[2], -1)
    return torch.stack(outputs).view(shape), torch.stack(sums).view(shape[:3])


@pytest.mark.parametrize("backend", available(torch.device("cpu")))
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 8),
    heads=st.integers(1, 4),
    group=st.sampled_from([1, 3, 4, 8]),
    head_dim=st.sampled_from([64, 80, 128]),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
    queries=st.sampled_from([1, 1, 1, 5]),
    shape=st.sampled_from(["ragged", "equal", "one and all"]),
    softcap=st.sampled_from([None, None, 30.0]),
    biased=st.booleans(),
)
def test_backends_equal_dense_attention(
    backend: str,
    seed: int,
    batch: int,
    heads: int,
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    queries: int,
    shape: str,
    softcap: float | None,
    biased: bool,
) -> None:
    torch.manual_seed(seed)
    counts = torch.randint(1, 90, (batch, heads))
    if shape == "equal":
        counts[:] = counts[0, 0]
    elif shape == "one and all":
        counts[:, 0], counts[:, -1] = 1, 300
    prefix = ragged(counts, head_dim, dtype, biased)
    query = torch.randn(batch, heads * group, queries, head_dim, dtype=dtype)
    output, lse = attend(query, prefix, head_dim**-0.5, softcap, backend)
    wanted, wanted_lse = expected(query, prefix, head_dim**-0.5, softcap)
    assert output.dtype == dtype
    assert float((output.double() - wanted).abs().max()) < TOLERANCE[dtype]
    assert float((lse.double() - wanted_lse).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("biased", [False, True])
def test_long_prefixes_take_the_other_way_and_agree(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = ragged(torch.tensor([[700, 3, 90]]), 64, torch.float32, biased)
    query = torch.randn(1, 9, 1, 64)
    masked, masked_lse = attend(query, prefix, 0.1)
    monkeypatch.setattr(segments_backend, "_BLOCK_DIAGONAL_LIMIT", 0)
    apart, apart_lse = attend(query, prefix, 0.1)
    torch.testing.assert_close(masked, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked_lse, apart_lse, atol=1e-5, rtol=0)


@given(tail=st.integers(1, 9), queries=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_prefix_and_tail_join_exactly(tail: int, queries: int, seed: int) -> None:
    """A prefix everyone sees and a causal tail, against one masked softmax over both."""
    torch.manual_seed(seed)
    tail = max(tail, queries)
    prefix = ragged(torch.tensor([[7, 7]]), 16, torch.float32)
    query = torch.randn(1, 4, queries, 16)
    keys, values = torch.randn(1, 2, tail, 16), torch.randn(1, 2, tail, 16)
    got = join(attend(query, prefix, 0.3), causal_tail(query, keys, values, 0.3))
    all_keys = torch.cat([prefix.keys.view(1, 2, 7, 16), keys], 2).repeat_interleave(2, 1)
    all_values = torch.cat([prefix.values.view(1, 2, 7, 16), values], 2).repeat_interleave(2, 1)
    visible = torch.ones(queries, 7 + tail, dtype=torch.bool).tril(7 + tail - queries)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, all_keys, all_values, attn_mask=visible, scale=0.3
    )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_padded_rows_attend_as_if_alone() -> None:
    query = torch.randn(2, 4, 10, 16)
    keys, values = torch.randn(2, 2, 10, 16), torch.randn(2, 2, 10, 16)
    together = causal_attention(query, keys, values, 0.25, [0, 6])
    alone = causal_attention(query[1:, :, 6:], keys[1:, :, 6:], values[1:, :, 6:], 0.25)
    assert torch.equal(together[1:, :, 6:], alone)
    assert not together[1, :, :6].any()


@pytest.mark.parametrize(
    "counts",
    [
        [[30, 30]],
        [[1, 90]],
        [[5, 17, 40, 3]],
        [[30, 30], [30, 30], [30, 30]],
        [[1, 90], [40, 51], [90, 1]],
    ],
)
@pytest.mark.parametrize("tail", [1, 6])
@pytest.mark.parametrize("biased", [False, True])
def test_one_token_in_one_softmax_equals_joining(
    counts: list[list[int]], tail: int, biased: bool
) -> None:
    """Both granularities: stored heads as many as KV heads, or more; the tail part of a buffer."""
    prefix, batch = ragged(torch.tensor(counts), 16, torch.float32, biased), len(counts)
    query = torch.randn(batch, 8, 1, 16)
    keys, values = (torch.randn(batch, 2, tail + 3, 16)[:, :, :tail] for _ in range(2))
    assert serves(query, prefix, None)
    assert not serves(query, prefix, 5.0) and not serves(query.bfloat16(), prefix, None)
    got = attend_token(query, prefix, keys, values, 0.3)
    past = attend(query, prefix, 0.3, backend="reference")
    wanted = join(past, causal_tail(query, keys, values, 0.3))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_uneven_sequences_are_not_served_together() -> None:
    prefix = ragged(torch.tensor([[3, 5], [4, 5]]), 16, torch.float32)
    assert not prefix.even and not serves(torch.randn(2, 8, 1, 16), prefix, None)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(2, 6),
    heads=st.integers(1, 4),
    group=st.sampled_from([1, 3, 8]),
    width=st.sampled_from([64, 80]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    queries=st.sampled_from([1, 1, 5]),
    softcap=st.sampled_from([None, None, 30.0]),
    biased=st.booleans(),
)
def test_tiles_equal_dense_attention(
    seed: int,
    batch: int,
    heads: int,
    group: int,
    width: int,
    dtype: torch.dtype,
    queries: int,
    softcap: float | None,
    biased: bool,
) -> None:
    """Caches of all lengths, some with biases, stacked; and some of them taken out again."""
    torch.manual_seed(seed)
    counts = torch.randint(1, 200, (batch, heads)) ** 2 // 200 + 1
    parts = [
        ragged(each[None], width, dtype, biased and bool(place % 2))
        for place, each in enumerate(counts)
    ]
    tiles, whole = stack(parts), Ragged.stack(parts)
    assert isinstance(tiles, Tiled) and tiles.nbytes > whole.keys.nbytes
    query = torch.randn(batch, heads * group, queries, width, dtype=dtype)
    rows = torch.randperm(batch)[: batch // 2].tolist()
    for prefix, held, asked in (
        (tiles, whole, query),
        (tiles.select(rows), whole.select(rows), query[rows]),
    ):
        output, lse = attend(asked, prefix, width**-0.5, softcap)
        wanted, wanted_lse = expected(asked, held, width**-0.5, softcap)
        assert output.dtype == dtype
        assert float((output.double() - wanted).abs().max()) < TOLERANCE[dtype]
        assert float((lse.double() - wanted_lse).abs().max()) < TOLERANCE[dtype]


def test_a_tail_of_several_texts_is_masked() -> None:
    query, keys, values = torch.randn(2, 4, 3, 16), *torch.randn(2, 2, 2, 7, 16)
    seen = torch.rand(2, 3, 7) < 0.5
    seen[:, :, 0] = True
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    got, _ = causal_tail(query, keys, values, 0.3, seen=mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=seen[:, None], scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_biases_follow_their_entries() -> None:
    """Stacked beside a prefix that has none, and taken apart again; their bytes are counted."""
    biased, plain = (ragged(torch.tensor([[3, 5]]), 16, torch.float32, each) for each in (1, 0))
    both = Ragged.stack([plain, biased])
    assert both.bias is not None and not both.bias[:8].any()
    assert torch.equal(both.select([1]).bias, biased.bias)
    assert biased.entry_bytes == plain.entry_bytes + 8 * 4 == 8 * (2 * 16 + 1) * 4
