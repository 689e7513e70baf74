"""Progress off a terminal, and the memory that it shows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headkv.evaluation import memory, progress
from headkv.evaluation.runner import Outcome
from headkv.models.loaded import Loaded


def test_progress_off_a_terminal_is_a_line_now_and_then(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_words: Callable[..., Outcome],
) -> None:
    run_words(tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    run_words(tmp_path / "said")
    last = [line for line in capsys.readouterr().err.splitlines() if line.strip()][-1].strip()
    assert last.startswith("words tiny: 10/10 examples, ")
    for part in ("examples/s", "tokens/s", "00:00 left", "GiB"):
        assert part in last


def test_memory_is_measured_where_the_model_lies(
    loaded: Loaded,
) -> None:
    held = [torch.zeros(2**26) for _ in range(2)]
    before = memory.used_bytes(loaded.model)
    assert 2**29 < before < 2**37 and 0 < memory.free_bytes(loaded.model) < 2**44
    held.clear()
    memory.release()
    assert memory.used_bytes(loaded.model) < before - 2**28
