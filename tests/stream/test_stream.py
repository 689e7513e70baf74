"""Perplexity under a bounded cache: token by token it is the same, and rows are written once."""

import json
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from headkv import prefill
from headkv.generation.batch import start
from headkv.stream.measure import read
from headkv.stream.settings import Plan
from headkv.stream.show import load_stream, save_figures, table


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    """Two texts of 90 tokens."""
    return torch.randint(3, 97, (2, 90), generator=torch.Generator().manual_seed(3))


def test_full_cache_is_the_model_s_own_loss(
    tiny: LlamaForCausalLM, ids: torch.Tensor, make_method
) -> None:
    with torch.no_grad():
        logits = tiny(ids, past_key_values=DynamicCache(config=tiny.config)).logits
    logs = logits.double().log_softmax(-1)[:, 29:-1]
    wanted = -logs.gather(-1, ids[:, 30:, None])[..., 0]
    for method in (
        make_method("fullkv", None),
        make_method("snapkv", 500, decode_kv_size=500, compress_every=16),
    ):
        found = read(tiny, ids, 30, method)
        losses = torch.stack([each.losses for each in found])
        assert losses.shape == (2, 60) and torch.allclose(losses, wanted, atol=1e-4)


def test_pieces_are_what_single_tokens_are(
    tiny: LlamaForCausalLM, ids: torch.Tensor, make_method
) -> None:
    method = make_method("rkv", 24, decode_kv_size=24, compress_every=8)
    found = read(tiny, ids, 30, method)
    prefilled = prefill(tiny, {"input_ids": ids[:, :30]}, methods=[method])
    batch = start(tiny, prefilled, [prefilled.compress(method)])
    logits = [prefilled.logits[:, None]]
    logits += [batch.feed(tiny, ids[:, place : place + 1]) for place in range(30, 89)]
    logs = torch.cat(logits, 1).double().log_softmax(-1)
    wanted = -logs.gather(-1, ids[:, 30:, None])[..., 0]
    losses = torch.stack([each.losses for each in found])
    assert torch.allclose(losses, wanted, atol=1e-4)
    row = found[0].held.as_row()
    assert row["peak_entries"] == 3 * 2 * (24 + 8) and row["mean_entries"] < row["peak_entries"]


def test_table_and_figure_of_rows(tmp_path: Path) -> None:
    for method, size, loss in (("fullkv", None, 2.0), ("snapkv", 64, 2.5), ("snapkv", 128, 2.2)):
        folder = tmp_path / "stream" / "tiny" / method / str(size or "full")
        folder.mkdir(parents=True)
        rows = [
            {
                "id": str(text),
                "tokens": 512,
                "prefilled": 64,
                "loss": loss,
                "perplexity": 1.0,
                "losses": [loss, loss],
                "kv_size": size,
                "protocol": "corrected",
                "granularity": "kv_head",
                "decoding": {"mean_entries": 10.0, "peak_bytes": 1e6},
                "run_key": "a-b",
            }
            for text in range(2)
        ]
        (folder / "essays.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = load_stream(tmp_path)
    shown = table(frame, tmp_path / "tables")
    assert "12.18" in shown and "9.03" in shown  # e^2.5, e^2.2
    assert [path.suffix for path in save_figures(frame, tmp_path / "figures")] == [".png", ".pdf"]


def test_plan_is_bounded() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Plan(tokens=0, texts=1)
