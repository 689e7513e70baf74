"""The cooperative game: values against plain loops, and what its coalitions keep and are worth."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch

from headkv import UserError
from headkv.benchmarks.haystack import find_essays
from headkv.calibration.cooperative import CooperativeFinder, Tally
from headkv.calibration.grids import Game, HeadTestGrid
from headkv.generation.prefill import kept_positions, prefill
from headkv.models.prompts import encode


def test_values_are_those_of_plain_loops() -> None:
    """Every coalition of every size of a game of five, two of whom are worth more together."""
    worth = [0.1, 0.0, 0.3, 0.05, 0.2]

    def utility(members: set[int]) -> float:
        return sum(worth[i] for i in members) + 0.2 * ({0, 2} <= members)

    tally, wanted = Tally(1, 5, 2), [[0.0] * 5 for _ in range(2)]
    for size, members in ((0, 2), (1, 3)):
        coalitions = [set(each) for each in combinations(range(5), members)]
        gains = [utility(each) - utility(set(range(5)) - each) for each in coalitions]
        for run in (0, 1):
            for each, gain in zip(coalitions, gains, strict=True):
                mask = torch.tensor([[i in each for i in range(5)]])
                tally.add(run, size, mask, gain)
        for i in range(5):
            own = [gain for each, gain in zip(coalitions, gains, strict=True) if i in each]
            wanted[size][i] = sum(own) / len(own)
    means = [(a + b) / 2 for a, b in zip(*wanted, strict=True)]
    for run in tally.values:
        assert run[0].tolist() == pytest.approx(means)
    assert tally.difference() == pytest.approx(0)
    assert means.index(max(means)) == 2 and means.index(min(means)) == 1


def test_a_head_that_was_never_drawn_is_not_stable() -> None:
    tally = Tally(1, 2, 1)
    tally.add(0, 0, torch.tensor([[True, False]]), 0.5)
    assert tally.difference() == math.inf


def test_tallies_join() -> None:
    parts = [Tally(2, 2, 1) for _ in range(2)]
    whole = Tally(2, 2, 1)
    for number, tally in enumerate(parts):
        members = torch.tensor([[True, False], [False, True]])
        tally.add(number, 0, members, 0.25 + number)
        whole.add(number, 0, members, 0.25 + number)
    parts[0].join(parts[1].table())
    assert torch.equal(parts[0].sums, whole.sums) and torch.equal(parts[0].counts, whole.counts)


@pytest.mark.parametrize(
    "wrong", [{"sizes": [0.0]}, {"samples": 1}, {"utility": "luck"}, {"window": 0}, {"least": -1}]
)
def test_impossible_games_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Game(**wrong)


@pytest.fixture(scope="module")
def play(smollm2: tuple[Any, Any]) -> Callable[..., CooperativeFinder]:
    """Makes a finder of the real model on one short prompt; keywords are the game's."""
    model, tokenizer = smollm2
    tests = HeadTestGrid(
        "retrieval", lengths=(96,), depths=2, repetitions=1, teacher_forcing=True, max_new_tokens=6
    )

    def play(**game: Any) -> CooperativeFinder:
        settings = {"samples": 4, "per_prompt": 2, "sizes": (0.5,), **game}
        return CooperativeFinder(Game(**settings), model, tokenizer, tests, find_essays(None))

    return play


def test_a_coalition_keeps_what_it_says(play: Callable[..., CooperativeFinder]) -> None:
    finder = play()
    ids = torch.tensor([list(range(5, 65))])
    members = finder._draw(45, torch.Generator().manual_seed(3))
    coalition = finder._coalition(members)
    prefilled = prefill(finder.model, {"input_ids": ids}, 4, [coalition])
    for layer, heads in zip(members.tolist(), kept_positions(prefilled, coalition), strict=True):
        for inside, kept in zip(layer, heads, strict=True):
            assert kept.tolist() == list(range(0 if inside else 60 - 4 - 8, 60))


def test_the_grand_coalition_is_worth_what_the_full_cache_is(
    play: Callable[..., CooperativeFinder],
) -> None:
    finder = play(utility="probability")
    text = "The parcel for Anselm contains one amber kettle. What does it contain?"
    prompt = encode(finder.tokenizer, text, chat_template=True, max_prompt_tokens=None)
    inputs = {"input_ids": torch.tensor([prompt.input_ids])}
    prefilled = prefill(finder.model, inputs, prompt.template_tokens)
    right = finder.tokenizer("one amber kettle")["input_ids"]
    everyone = torch.ones(finder.shape, dtype=torch.bool)
    all_of_them, nobody = finder._utilities(prefilled, [everyone, ~everyone], right, "")
    text_and_answer = torch.tensor([[*prompt.input_ids, *right]])
    with torch.no_grad():
        logs = finder.model(text_and_answer).logits[0].log_softmax(-1)
    wanted = sum(float(logs[len(prompt.input_ids) - 1 + i, token]) for i, token in enumerate(right))
    wanted += float(logs[-1, 2])  # the end
    assert math.log(all_of_them) == pytest.approx(wanted / (len(right) + 1), rel=1e-3)
    assert nobody < all_of_them
    logs = play()._utilities(prefilled, [everyone], right, "")
    assert logs == pytest.approx([math.log(all_of_them)], rel=1e-3)


def test_the_same_game_has_the_same_values_and_goes_on_where_it_was(
    play: Callable[..., CooperativeFinder],
) -> None:
    whole = play()
    tests = list(whole.measure())
    assert len(tests) == 2 and int(whole.tally.counts.sum()) == 4 * 45
    again = play()
    list(again.measure({tests[0].name: tests[0]}))
    assert torch.equal(again.tally.sums, whole.tally.sums)
    assert torch.equal(again.tally.counts, whole.tally.counts)


def test_runs_that_agree_do_not_end_the_game_too_early(
    play: Callable[..., CooperativeFinder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CooperativeFinder, "stable", True)
    assert len(list(play(samples=8).measure())) == 1
    longer = play(samples=8, least=4)
    assert len(list(longer.measure())) == 2 and longer.outcome()["coalitions"] == 4


def test_answers_may_be_the_utility(play: Callable[..., CooperativeFinder]) -> None:
    finder = play(utility="accuracy", samples=2)
    (test,) = finder.measure()
    assert test.scores is not None and 0 <= test.success <= 1
    assert finder.tally.sums.abs().max() <= 2
