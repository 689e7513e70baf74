import torch
from hypothesis import given
from hypothesis import strategies as st

from headkv.methods.allocators.sharing import distribute, largest_remainder

numbers = st.lists(st.floats(0, 1000), min_size=1, max_size=40)


@given(numbers, st.integers(0, 5000))
def test_largest_remainder_is_exact_and_within_one(weights: list[float], total: int) -> None:
    shares = torch.tensor(weights, dtype=torch.float64) + 1e-3
    shares = shares / shares.sum() * total
    whole = largest_remainder(shares, total)
    assert int(whole.sum()) == total
    assert float((whole - shares).abs().max()) < 1 + 1e-6


def test_ties_go_to_the_earlier_place() -> None:
    assert largest_remainder(torch.full((4,), 2.5, dtype=torch.float64), 10).tolist() == [
        3,
        3,
        2,
        2,
    ]


@given(numbers, st.integers(0, 20_000), st.integers(0, 5), st.integers(5, 400))
def test_distribute_meets_total_and_bounds(
    weights: list[float], total: int, low: int, high: int
) -> None:
    shared = torch.tensor(weights, dtype=torch.float64)
    got = distribute(total, torch.zeros_like(shared), shared, low, high)
    count = len(weights)
    assert int(got.sum()) == min(max(total, low * count), high * count)
    assert int(got.min()) >= low and int(got.max()) <= high


def test_what_a_clipped_head_cannot_take_goes_to_the_others_by_weight() -> None:
    base = torch.zeros(3)
    got = distribute(100, base, torch.tensor([90.0, 6.0, 4.0]), 0, 50)
    assert got.tolist() == [50, 30, 20]


def test_heads_of_weight_zero_take_part_last() -> None:
    got = distribute(100, torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), 0, 60)
    assert got.tolist() == [60, 20, 20]


def test_more_to_share_never_gives_a_head_much_less() -> None:
    weights = torch.rand(50, generator=torch.Generator().manual_seed(1)) ** 4
    before = distribute(0, torch.zeros(50), weights, 0, 100)
    for total in range(1, 2000, 7):
        after = distribute(total, torch.zeros(50), weights, 0, 100)
        assert int((after - before).min()) >= -1  # rounding may move one token
        before = after
