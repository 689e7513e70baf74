"""What a run will take: counts that are right, and a time of the right size."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from headkv.evaluation.encoding import EncodedExample
from headkv.evaluation.estimate import Estimate, _prefill_flops, estimate
from headkv.evaluation.plan import Asked
from headkv.generation.decoding import Stopping
from headkv.records import Example

EXAMPLES = [
    Example(f"{task}-{i}", task, "word " * (10 + i), ("a",), 20 if task == "short" else 100)
    for task in ("short", "long")
    for i in range(150)
]


class FakeEncoder:
    """Two tokens a word, 2,000 at most; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
        )
        model = LlamaForCausalLM(config)
        self.loaded = SimpleNamespace(model=model, max_prompt_tokens=2000)
        self.benchmark = SimpleNamespace(longest=None)

    def encode(self, example: Example, compress_on: str | None = None) -> Any:
        self.calls += 1
        tokens = min(2 * len(example.prompt.split()), self.loaded.max_prompt_tokens)
        prompt = SimpleNamespace(input_ids=[0] * tokens)
        return EncodedExample(example, prompt, 0, 0, False, Stopping(20, (1,)))


class FakeScheduler:
    """A second a prompt token, 0.1 to compress it, a hundred a new token, ten to measure."""

    def __init__(self) -> None:
        self.probed: list[Any] = []

    def compress_on(self, cell: int) -> str:
        return "prompt"

    def answers(self, examples: list[Any], cells: list[int]) -> Any:
        (piece,) = examples
        self.probed.append(piece)
        count = len(piece.prompt.input_ids)
        new = piece.stopping.max_new_tokens
        assert piece.stopping.min_new_tokens == new  # or the probe may end at once
        seconds = {
            "prefill": 1.0 * count,
            "compress": 0.1 * count,
            "decode": 100.0 * new,
            "fidelity": 10.0,
        }
        for cell in cells:
            yield [SimpleNamespace(cell=cell, seconds=seconds)]


def told(work: Any) -> tuple[Estimate, FakeEncoder, FakeScheduler]:
    encoder, scheduler = FakeEncoder(), FakeScheduler()
    asked = [Asked(e.task, e.id, "", len(e.prompt), e.max_new_tokens, cells) for e, cells in work]

    def stream(names: Any) -> list[Example]:
        return [example for example, _ in work if (example.task, example.id) in names]

    return estimate(asked, stream, encoder, scheduler), encoder, scheduler  # type: ignore[arg-type]


def test_small_runs_are_counted_exactly() -> None:
    work = [(example, (0, 1)) for example in EXAMPLES[:3]] + [(EXAMPLES[150], (1,))]
    found, _, _ = told(work)
    assert found.exact and found.prompt_tokens == 20 + 22 + 24 + 20
    assert (found.examples, found.cells, found.answers) == (4, 2, 7)
    assert found.new_tokens == 6 * 20 + 100


def test_seconds_add_up() -> None:
    found, _, _ = told([(EXAMPLES[0], (0, 1, 2)), (EXAMPLES[150], (0,))])
    cells = 3 * (2 + 10 + 20 * 100) + (2 + 10 + 100 * 100)
    assert found.seconds == pytest.approx(2 * 20 + cells)


def test_prefill_grows_faster_than_the_prompt_and_slower_than_its_square() -> None:
    longer = replace(EXAMPLES[0], prompt="word " * 600)
    found, _, scheduler = told([(longer, (0,))])
    probed, warm = (len(piece.prompt.input_ids) for piece in scheduler.probed)
    assert probed == warm == 800
    prefill = found.seconds - 20 * 100 - 10 - 120
    assert 1.5 < prefill / 800 < 2.25


def test_long_runs_are_estimated_from_a_sample() -> None:
    work = [(example, (0,)) for example in EXAMPLES]
    found, encoder, _ = told(work)
    exact = sum(2 * (10 + i) for i in range(150)) * 2
    assert not found.exact and encoder.calls < 30
    assert found.prompt_tokens == pytest.approx(exact, rel=0.01)


def test_truncated_prompts_are_not_longer_than_the_limit() -> None:
    work = [(replace(each, prompt="word " * 5000), (0,)) for each in EXAMPLES]
    assert told(work)[0].prompt_tokens == 300 * 2000


def test_nothing_to_do_is_said_without_a_probe() -> None:
    found, encoder, scheduler = told([])
    assert str(found) == "nothing is left to do"
    assert not encoder.calls and not scheduler.probed


def test_flops_of_a_model() -> None:
    model = FakeEncoder().loaded.model
    linear, square = _prefill_flops(model)
    head = model.lm_head.weight.numel()
    layers = sum(each.numel() for each in model.model.layers.parameters())
    assert linear == pytest.approx(2 * (layers + head), rel=0.01)
    assert square == 2 * 2 * 4 * 8
