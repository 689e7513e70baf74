"""Sharing heads out over ranks, against every assignment there is."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv import UserError
from headkv.balance.__main__ import main, parse
from headkv.balance.loads import kept_entries, shares
from headkv.balance.partition import best, contiguous, copied, longest_first, totals
from headkv.evaluation.kept_tokens import pack

LOADS = st.lists(st.integers(1, 40).map(float), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(loads=LOADS, ranks=st.integers(1, 3))
def test_best_is_the_best_of_all_assignments(loads: list[float], ranks: int) -> None:
    every = product(range(ranks), repeat=len(loads))
    least = min(max(totals(loads, each, ranks)) for each in every)
    assert max(totals(loads, best(loads, ranks), ranks)) == pytest.approx(least)
    greedy = max(totals(loads, longest_first(loads, ranks), ranks))
    assert least <= greedy <= least * 4 / 3 + 1e-9


@settings(max_examples=40, deadline=None)
@given(loads=LOADS, ranks=st.integers(2, 3), copies=st.integers(1, 3))
def test_copies_never_make_it_worse(loads: list[float], ranks: int, copies: int) -> None:
    pieces = copied(loads, ranks, copies)
    assert [sum(parts) for parts in pieces] == pytest.approx(loads)
    assert sum(map(len, pieces)) <= len(loads) + copies
    flat = [load for parts in pieces for load in parts]
    alone = max(totals(loads, best(loads, ranks), ranks))
    assert max(totals(flat, best(flat, ranks), ranks)) <= alone + 1e-9


def test_utilisation_by_hand() -> None:
    assert contiguous([1.0] * 8, 4) == [0, 0, 1, 1, 2, 2, 3, 3]
    even, *_ = shares("snapkv", [[5.0] * 8] * 3, 4, [])
    assert even.utilisation == even.worst == 1
    plain, mended, one_copy = shares("headkv_r2", [[6.0, 6, 1, 1], [1, 1, 1, 1]], 2, [1])
    assert plain.utilisation == pytest.approx((14 + 4) / 2 / (12 + 2))
    assert plain.worst == pytest.approx(7 / 12)
    assert mended.utilisation == 1 and one_copy.copied_entries == 0  # nothing left to win
    _, alone, shared = shares("headkv_r2", [[9.0, 1, 1, 1]], 2, [1])
    assert alone.utilisation == pytest.approx(6 / 9)
    assert shared.utilisation == pytest.approx(6 / 6.5) and shared.copied_entries == pytest.approx(
        9 / 12
    )
    with pytest.raises(UserError, match="ranks=8 for layers of 4"):
        shares("headkv_r2", [[1.0] * 4], 8, [])


def test_command_writes_tables_and_a_figure(tmp_path: Path, capsys) -> None:
    heads = [f"{layer}-{head}" for layer in range(3) for head in range(8)]
    scores = {head: [0.9 if head.endswith("0") else 0.01] for head in heads}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps(scores))
    words = [f"scores={file}", "kv_heads=4", "kv_size=64", "ranks=[2,4]", f"output_dir={tmp_path}"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "not a measurement" in shown and "snapkv" in shown
    rows = json.loads((tmp_path / "tables" / "balance_scores.json").read_text())
    assert {row["way"] for row in rows} == {
        "contiguous",
        "best",
        "best + 1 copy",
        "best + 2 copies",
    }
    used = {(row["method"], row["ranks"], row["way"]): row["utilisation"] for row in rows}
    assert used["snapkv", 4, "contiguous"] == 1
    assert used["headkv_r2", 2, "contiguous"] <= used["headkv_r2", 2, "best"] < 1
    assert (tmp_path / "figures" / "balance_scores.pdf").stat().st_size > 1000
    for wrong, said in (
        ([], "scores is missing"),
        (["scores=a", "ranks=0"], "ranks"),
        (["scores=a", "colour=red"], "colour=red"),
    ):
        with pytest.raises(UserError, match=said):
            parse(wrong)
    with pytest.raises(UserError, match="divisors of 8"):
        main([f"scores={file}", "kv_heads=3"])
    with pytest.raises(UserError, match="adakv's budgets depend on the prompt"):
        main([f"scores={file}", "kv_heads=4", "method=adakv"])


def test_loads_of_any_method(tmp_path: Path, capsys) -> None:
    """PyramidKV follows from sizes; what depends on a prompt is read from an inspection."""
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({f"{n // 4}-{n % 4}": [0.1 * n] for n in range(8)}))
    words = ["kv_heads=4", "kv_size=64", "ranks=2", f"output_dir={tmp_path}"]
    assert main([f"scores={file}", "method=[pyramidkv,snapkv]", *words]) == 0
    shown = capsys.readouterr().out
    assert "pyramidkv 64" in shown and "100.0" in shown
    kept = [[torch.arange(9), torch.arange(3)], [torch.arange(4), torch.arange(4)]]
    assert kept_entries(pack(kept, 20), 2, 2) == [[9.0, 3.0], [4.0, 4.0]]
    cell = {"method": "adakv", "kv_size": 5, "granularity": "kv_head", "run_key": "a-b"}
    cell |= {"kept_tokens": 20, "shape": [2, 2, 20], "kept": pack(kept, 20)}
    content = {"format": 1, "benchmark": "needle", "model": "m", "task": "t", "id": "i"}
    content |= {"answers": ["a"], "protocol": "corrected", "compress_on": "prompt"}
    content |= {"tokens": ["a"] * 20, "written": "now", "cells": [cell]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    assert main([f"loads={tmp_path / 'one.json'}", "ranks=2", f"output_dir={tmp_path}"]) == 0
    rows = json.loads((tmp_path / "tables" / "balance_one.json").read_text())
    assert rows[0]["utilisation"] == pytest.approx((6 + 4) / (9 + 4))
    with pytest.raises(UserError, match="no such cell"):
        main([f"loads={tmp_path / 'one.json'}", "method=snapkv"])
    with pytest.raises(UserError, match="headkv inspect"):
        main([f"loads={file}"])
