"""The sanity report: prompts that were not compressed do not go unseen."""

import json
from pathlib import Path
from typing import Any

import pytest

from headkv.report.__main__ import main
from headkv.report.load import load_results
from headkv.report.sanity import faults, full_table, kept_table, with_expected

HEADS = 6  # stored by KV head; twice as many by query head


def row(id: str, kv_size: int | None, tokens: int = 1000, **given: Any) -> dict[str, Any]:
    heads = HEADS * (2 if given.get("granularity") == "query_head" else 1)
    kept = heads * (tokens if kv_size is None else min(tokens, kv_size))
    return {
        "id": id,
        "score": 50.0,
        "prompt_tokens": tokens,
        "kv_size": kv_size,
        "kept_tokens": kept,
        "cache_bytes": 8 * kept,
        "full_cache_bytes": 8 * HEADS * tokens,
        "protocol": "corrected",
        "granularity": "kv_head",
        "compress_on": "prompt",
        "chat_template": True,
        "end_tokens": [2, 7],
        "truncated": False,
        "context_tokens": tokens,
        "stored_heads": heads,
        "run_key": "a-b",
    } | given


def write(
    folder: Path, method: str, rows: list[dict[str, Any]], task: str = "t", name: str = ""
) -> None:
    size = rows[0]["kv_size"] or "full"
    path = folder / "bench" / "model" / method / str(size) / f"{task}{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def look(folder: Path) -> list[str]:
    return faults(with_expected(load_results(folder)))


def without(rows: list[dict[str, Any]], *fields: str) -> list[dict[str, Any]]:
    """As older versions wrote them."""
    return [{key: value for key, value in row.items() if key not in fields} for row in rows]


def test_what_it_says_of_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = [row("1", None), row("2", None, 100, truncated=True, score=100.0)]
    write(tmp_path, "fullkv", full)
    write(tmp_path, "snapkv", [row("1", 128), row("2", 128, 100)])
    rows = with_expected(load_results(tmp_path))
    assert faults(rows) == []
    (line,) = full_table(rows).to_dict("records")
    assert (line["n"], line["score"], line["truncated %"]) == (2, 75, 50)
    assert (line["chat template"], line["end tokens"]) == ("yes", "2,7")
    (line,) = kept_table(rows).to_dict("records")
    assert [line[name] for name in ("n", "longer", "compressed", "exact")] == [2, 1, 1, 1]
    assert main(["sanity", str(tmp_path)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_rows_that_do_not_say_whether_they_were_cut(tmp_path: Path) -> None:
    write(tmp_path, "fullkv", without([row("1", None)], "truncated"))
    write(tmp_path, "snapkv", [row("1", 128)])
    (line,) = full_table(with_expected(load_results(tmp_path))).to_dict("records")
    assert line["truncated %"] is None or line["truncated %"] != line["truncated %"]
    assert main(["sanity", str(tmp_path)]) == 0


@pytest.mark.parametrize("fields", [(), ("context_tokens", "stored_heads", "compress_on")])
def test_a_prompt_that_was_not_compressed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: tuple[str, ...]
) -> None:
    """As in one published tracker: only the first sample was."""
    write(tmp_path, "fullkv", without([row("1", None), row("2", None)], *fields))
    bad = row("2", 128, kept_tokens=HEADS * 1000)
    write(tmp_path, "snapkv", without([row("1", 128), bad], *fields))
    (fault,) = look(tmp_path)
    assert fault.startswith("NOT COMPRESSED: bench/model/snapkv/128/t ")
    assert "1 rows: 2 (kept 6000, whole 6000)" in fault
    assert main(["sanity", str(tmp_path)]) == 1
    assert "NOT COMPRESSED" in capsys.readouterr().err


def test_all_of_many_are_counted(tmp_path: Path) -> None:
    ids = [str(number) for number in range(9)]
    write(tmp_path, "fullkv", [row(id, None) for id in ids])
    write(tmp_path, "snapkv", [row(id, 128, kept_tokens=HEADS * 1000) for id in ids])
    (fault,) = look(tmp_path)
    assert "9 rows" in fault and "and 4 more" in fault


@pytest.mark.parametrize("kept", [HEADS * 128 + 1, HEADS * 128 - 1, HEADS * 136])
def test_in_corrected_the_budget_is_exact(tmp_path: Path, kept: int) -> None:
    write(tmp_path, "fullkv", [row("1", None)])
    write(tmp_path, "snapkv", [row("1", 128, kept_tokens=kept)])
    (fault,) = look(tmp_path)
    assert "budget 768" in fault and f"kept {kept}" in fault


def test_in_paper_it_is_not_but_compressed_it_must_be(tmp_path: Path) -> None:
    paper = {"protocol": "paper", "granularity": "query_head"}
    write(tmp_path, "fullkv", [row("1", None, protocol="paper")], name="@paper-kv_head")
    write(
        tmp_path,
        "pyramidkv",
        [row("1", 128, kept_tokens=12 * 133, **paper)],
        name="@paper-query_head",
    )
    assert look(tmp_path) == []
    # More entries than the per-KV-head cache has, and still a sixth less than the repeated one.
    write(
        tmp_path, "headkv_r", [row("1", 128, kept_tokens=10_000, **paper)], name="@paper-query_head"
    )
    assert look(tmp_path) == []
    write(
        tmp_path,
        "headkv_r2",
        [row("1", 128, kept_tokens=12_000, **paper)],
        name="@paper-query_head",
    )
    (fault,) = look(tmp_path)
    assert fault.startswith("NOT COMPRESSED: bench/model/headkv_r2/128/t ")


def test_a_context_shorter_than_the_prompt(tmp_path: Path) -> None:
    context = {"compress_on": "context", "context_tokens": 120}
    kept = {"kept_tokens": HEADS * 120}
    name = "@corrected-kv_head-context"
    write(tmp_path, "fullkv", [row("1", None, 140, **context, **kept)], name=name)
    write(tmp_path, "snapkv", [row("1", 128, 140, **context, **kept)], name=name)
    assert look(tmp_path) == []
    write(tmp_path, "adakv", [row("1", 64, 140, **context)], name=name)
    assert look(tmp_path) == []


def test_layers_with_a_sliding_window_keep_it_whole(tmp_path: Path) -> None:
    window = 500
    write(tmp_path, "fullkv", [row("1", None, kept_tokens=HEADS * 1000 + window)])
    write(tmp_path, "snapkv", [row("1", 128, kept_tokens=HEADS * 128 + window)])
    assert look(tmp_path) == []


def test_fullkv_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "fullkv", [row("1", None)])
    write(tmp_path, "snapkv", [row("1", 128), row("2", 128)])
    write(tmp_path, "adakv", [row("1", 128)], task="other")
    found = look(tmp_path)
    assert [fault.split(":")[0] for fault in found] == ["FullKV did not answer"] * 2
    assert "adakv/128/other" in found[0] and "1 rows: 2 " in found[1]


def test_fullkv_dropped_tokens(tmp_path: Path) -> None:
    write(tmp_path, "fullkv", [row("1", None, kept_tokens=HEADS * 999)])
    (fault,) = look(tmp_path)
    assert fault.startswith("FullKV dropped tokens")


def test_rows_that_cannot_be_judged_are_a_fault(tmp_path: Path) -> None:
    old = ("context_tokens", "stored_heads")
    paper = {"protocol": "paper", "granularity": "query_head"}
    write(tmp_path, "fullkv", without([row("1", None, protocol="paper")], *old))
    write(tmp_path, "snapkv", without([row("1", 128, **paper)], *old))
    (fault,) = look(tmp_path)
    assert fault.startswith("not recorded")


def test_without_fullkv_nothing_can_be_compared_and_that_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after README's first command, which runs two compressed methods."""
    write(tmp_path, "snapkv", [row("1", 128), row("2", 128)])
    assert main(["sanity", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not comparable: no FullKV rows of bench/model/corrected/prompt, add fullkv" in said
    write(tmp_path, "adakv", [row("1", 128, kept_tokens=HEADS * 1000)])
    assert [fault.split(":")[0] for fault in look(tmp_path)] == ["NOT COMPRESSED"]
