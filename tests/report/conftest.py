"""Result folders of made-up rows, for the tests of the report."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def results(
    tmp_path: Path,
    needle_rows: Callable[..., list[dict[str, Any]]],
    skill: dict[str, float],
    write_rows: Callable[..., Path],
) -> Path:
    """Five methods on the needle, three KV sizes, every cell complete."""
    root = tmp_path / "results"
    for method in skill:
        for size in [None] if method == "fullkv" else [64, 128, 256]:
            write_rows(root, method, size, needle_rows(method, size))
    return root


@pytest.fixture(scope="session")
def qa_row() -> Callable[..., dict[str, Any]]:
    """A row of a question; `changes` are its own fields."""

    def qa_row(id: object, score: float, size: int | None = 64, **changes: Any) -> dict[str, Any]:
        kept = 900 if size is None else size
        row = {
            "id": str(id),
            "score": score,
            "scores": {"qa_f1": score},
            "prompt_tokens": 1000,
            "kv_size": size,
            "kept_tokens": kept,
            "cache_bytes": 2 * kept,
            "full_cache_bytes": 1800,
            "protocol": "corrected",
            "granularity": "kv_head",
            "compress_on": "prompt",
            "run_key": f"a-{id}",
        }
        return row | changes

    return qa_row


@pytest.fixture(scope="session")
def put_rows() -> Callable[..., Path]:
    """Writes rows of the model llama3_8b to `<benchmark>/<method>/<size>/<task>`."""

    def put_rows(root: Path, cell: str, rows: list[dict[str, Any]]) -> Path:
        benchmark, method, size, task = cell.split("/")
        path = root / benchmark / "llama3_8b" / method / size / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in rows))
        return path

    return put_rows


@pytest.fixture(scope="session")
def read_table() -> Callable[[Path, str], str]:
    """The text of a table in a results folder, without what only pads its columns."""

    def read_table(root: Path, name: str) -> str:
        return re.sub(" +", " ", (root / "tables" / name).read_text())

    return read_table
