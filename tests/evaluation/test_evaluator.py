"""The evaluator on a tiny model: what rows say, and that nothing outlives a call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headkv.evaluation.runner import Runner
from headkv.models.loaded import Loaded

Rows = dict[str, list[dict[str, Any]]]


def test_rows_say_how_the_model_was_asked(
    wanted: Rows,
    loaded: Loaded,
) -> None:
    for path, lines in wanted.items():
        for row in lines:
            assert row["chat_template"] == ("echo" in path)
            ends = loaded.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
            assert set(ends) <= set(row["end_tokens"])
            assert row["context_tokens"] == row["prompt_tokens"]
            assert row["stored_heads"] == (8 if "wide" in path else 4)
            if "fullkv" in path:
                assert row["kept_tokens"] == row["prompt_tokens"] * 4
                assert row["cache_bytes"] == row["full_cache_bytes"]
                assert row["fidelity"]["kl"] < 1e-5 and row["fidelity"]["agreement"] == 1


def test_nothing_outlives_a_call(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    """The same batch, compressed and decoded again, has the same answers and costs."""
    runner = make_runner(tmp_path)
    evaluator = runner.evaluator
    before = dict(vars(evaluator))
    encoded = [runner.encoder.encode(each) for each in runner.examples(("count",))[:2]]
    batch = evaluator.prefill(encoded)
    found = []
    for _ in range(2):
        cost, cache = evaluator.compress(batch, 0)
        caches = [cache]
        answers = evaluator.decode(batch, [cost], caches)
        assert not caches  # given up, for they can be large
        found.append([(each.tokens, each.kept_tokens, each.fidelity) for each in answers])
        assert [each.encoded for each in answers] == encoded
        assert cost.kept == [each.kept_tokens for each in answers] and cost.stored_heads == 4
    assert found[0] == found[1]
    assert vars(evaluator) == before
