"""Files appear whole or not at all, and storage is read without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from headkv.errors import UserError
from headkv.results.tidy import partials
from headkv.storage.atomic import write_bytes


def test_an_old_file_stays_when_a_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bytes(tmp_path / "new" / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match=r"disk full.*set output=, then run again"):
        write_bytes(path, b"new", "output=")
    assert [each.read_bytes() for each in path.parent.iterdir()] == [b"old"]


def test_what_a_killed_writer_leaves_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: None)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    write_bytes(tmp_path / "file", b"half")
    assert len(partials(tmp_path)) == 1


def test_storage_is_imported_without_torch() -> None:
    modules = "atomic head_scores keys layer_importance lines measured result_file run_record tree"
    code = f"import {', '.join(f'headkv.storage.{name}' for name in modules.split())}, sys"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
