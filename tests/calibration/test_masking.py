"""Switching heads off: exactly those, and only inside; and the experiment's rows and tests."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from headkv import UserError
from headkv.calibration.masking import _masks, switched_off
from headkv.calibration.settings import head_settings
from headkv.config import compose
from headkv.report.heads.masking import masking, masking_figure, masking_table, write_masking
from headkv.storage.head_scores import best_heads


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    ids = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(input_ids=ids).logits


def hooks(model: LlamaForCausalLM) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_off_is_as_if_its_output_weights_were_zero(tiny: LlamaForCausalLM) -> None:
    off, before = [(0, 2), (2, 0), (2, 5)], logits(tiny)
    with switched_off(tiny, off):
        got = logits(tiny)
        assert hooks(tiny) == 2
    kept = {name: value.clone() for name, value in tiny.state_dict().items()}
    try:
        for layer, head in off:
            weight = tiny.model.layers[layer].self_attn.o_proj.weight
            weight.data[:, head * 16 : (head + 1) * 16] = 0
        wanted = logits(tiny)
    finally:
        tiny.load_state_dict(kept)
    torch.testing.assert_close(got, wanted)
    assert not torch.allclose(got, before)
    assert torch.equal(logits(tiny), before) and hooks(tiny) == 0


def test_nothing_is_left_on_the_model_after_a_failure(tiny: LlamaForCausalLM) -> None:
    with pytest.raises(RuntimeError), switched_off(tiny, [(0, 0)]):
        raise RuntimeError
    for heads in ([(0, 6)], [(3, 0)], [(0, 0), (1, -1)]):
        with pytest.raises(UserError, match="that can be switched off"), switched_off(tiny, heads):
            pass
    assert hooks(tiny) == 0


def test_none_off_changes_nothing(tiny: LlamaForCausalLM) -> None:
    before = logits(tiny)
    with switched_off(tiny, []):
        assert torch.equal(logits(tiny), before)


def test_masks_are_the_best_and_random_heads_beside_them() -> None:
    table = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).numpy()
    best = {"retrieval": best_heads(table), "semantic": best_heads(-table)}
    asked = {"kinds": None, "heads": [3, 0, 1], "draws": 2}
    config = head_settings(compose("heads", ["seed=4"]) | {"masking": asked})[0]
    masks = _masks(config, best)
    assert list(masks) == [
        "none-0",
        "retrieval-1",
        "semantic-1",
        "retrieval-3",
        "semantic-3",
        "random0-1",
        "random0-3",
        "random1-1",
        "random1-3",
    ]
    assert masks["retrieval-3"] == best["retrieval"][:3] and masks["none-0"] == []
    for draw in ("random0", "random1"):
        assert masks[f"{draw}-1"] == masks[f"{draw}-3"][:1]
        assert not set(masks[f"{draw}-3"]) & {*masks["retrieval-3"], *masks["semantic-3"]}
    assert masks == _masks(config, best)
    for change in ({"heads": [18]}, {"heads": []}, {"heads": [-1]}, {"draws": 0}):
        with pytest.raises(UserError, match=r"masking\.(heads|draws)"):
            _masks(head_settings(compose("heads") | {"masking": asked | change})[0], best)


def rows() -> pd.DataFrame:
    """Ten examples: all right with nothing off, none with the best off, random in between."""
    right = {"none-0": 10, "retrieval-5": 0, "random0-5": 10, "random1-5": 8, "semantic-5": 9}
    lines = [
        {"method": name, "task": f"t{i % 2}", "id": str(i), "score": 100.0 * (i < hits)}
        for name, hits in right.items()
        for i in range(10)
    ]
    return pd.DataFrame(lines)


def test_the_numbers_of_the_experiment() -> None:
    cells = masking(rows()).set_index("off")
    assert cells["accuracy"].round(6).to_dict() == {
        "none": 100,
        "random": 90,
        "retrieval": 0,
        "semantic": 90,
    }
    assert cells.loc["random", "draws"] == 2
    assert cells.loc["retrieval", "difference"] == -90
    assert cells.loc["retrieval", "p"] < 0.01 < 0.5 < cells.loc["semantic", "p"]
    assert cells.loc["retrieval", "p_holm"] == pytest.approx(2 * cells.loc["retrieval", "p"])
    assert cells.loc[["none", "random"], "p"].isna().all()
    assert cells.loc["none", "ci_low"] < 90 and cells.loc["none", "ci_high"] == 100


def test_one_draw_of_hits_and_misses_is_an_exact_test() -> None:
    few = rows()
    cells = masking(few[few["method"] != "random1-5"]).set_index("off")
    assert cells.loc["retrieval", "test"] == "McNemar"
    assert cells.loc["retrieval", "p"] == pytest.approx(2 / 2**10)


def test_half_done_choices_are_left_out() -> None:
    half = rows()
    half = half[~((half["method"] == "random1-5") & (half["id"] > "4"))]
    cells = masking(half)
    assert "random" not in set(cells["off"]) and cells["p"].isna().all()
    drawn = masking_figure(cells, "m").axes[0]
    assert len(drawn.containers) == 3  # two kinds, and none
    assert "retrieval" in masking_table(cells, "m").to_markdown()


def test_tables_and_figure_are_written(tmp_path: Path) -> None:
    import json

    for name, part in rows().groupby("method"):
        for task, lines in part.groupby("task"):
            path = tmp_path / "rows" / "needle" / "m" / str(name) / "full" / f"{task}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            fixed = {
                "prompt_tokens": 9,
                "kv_size": None,
                "kept_tokens": 1,
                "cache_bytes": 1,
                "full_cache_bytes": 1,
                "protocol": "corrected",
                "granularity": "kv_head",
            }
            path.write_text(
                "".join(
                    json.dumps({**line, **fixed, "run_key": f"{name}-k"}) + "\n"
                    for line in lines[["id", "score"]].to_dict("records")
                )
            )
    written = write_masking(tmp_path / "rows", "m", tmp_path / "out")
    assert [path.name for path in written] == [f"masking.{e}" for e in ("csv", "md", "png", "pdf")]
    assert all(path.stat().st_size for path in written)
    found = pd.read_csv(tmp_path / "out" / "masking.csv")
    assert list(found["off"]) == ["none", "retrieval", "semantic", "random"]
