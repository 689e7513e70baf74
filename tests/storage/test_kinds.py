"""Files of every kind, damaged in any way: readers raise `UserError` only, and `verify` names them.

In one process, which has torch loaded once.
"""

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from headkv.calibration.test_log import HeadTestLog
from headkv.errors import UserError
from headkv.evaluation import kept_tokens, tuning
from headkv.report.figures.efficiency import load_efficiency
from headkv.report.html.content import inspections_of, prompts_of, records_of
from headkv.report.load import load_results
from headkv.report.stats.summary import summarise
from headkv.report.tables.results import write_tables
from headkv.results.check import problems
from headkv.results.tidy import remove, waste
from headkv.storage.head_scores import load_head_scores
from headkv.storage.kinds import faults
from headkv.storage.layer_importance import load_layer_importance
from headkv.storage.result_file import ResultFile
from headkv.storage.tree import asked, run_records

NAMES = (
    "rows",
    "measurements",
    "run record",
    "older run record",
    "inspection",
    "prompts",
    "choices",
    "head scores",
    "published scores",
    "importance",
    "head tests",
)
IN_RESULTS = NAMES[:7]
CONFIG = LlamaConfig(num_hidden_layers=2, num_attention_heads=2, hidden_size=16)
RAW = {
    "nothing": b"",
    "NUL": b"\0\0\0\n",
    "deep": b"[" * 100_000 + b"\n",
    "deep objects": b'{"a":' * 100_000 + b"\n",
    "no UTF-8": b'{"id": "\xff"}\n',
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "byte-order mark": b'\xef\xbb\xbf{"a": 1}\n',
    "5,000 digits": b'{"id": ' + b"9" * 5000 + b"}\n",
    "NaN": b'{"id": NaN}\n',
    "half a pair": b'{"id": "\\ud800"}\n',
    "a number": b"17\n",
    "text": b'"text"\n',
}


def tables(root: Path) -> None:
    write_tables(load_results(root), root)


def resumed(root: Path) -> None:
    for path in sorted(root.glob("*/*/*/*/*.jsonl")):
        ResultFile(path, "snapkv64")


def logged(path: Path) -> None:
    with closing(HeadTestLog(path.with_name(path.name.removesuffix(".tests.jsonl")), "k")):
        pass


READERS: dict[str, list[Callable[[Path, Path], object]]] = {
    "rows": [lambda root, path: tables(root), lambda root, path: resumed(root)],
    "measurements": [lambda root, path: load_efficiency(root)],
    "run record": [
        lambda root, path: kept_tokens._read(path),
        lambda root, path: records_of(path.parent),
    ],
    "older run record": [
        lambda root, path: run_records(path.parents[1]),
        lambda root, path: asked(root),
        lambda root, path: records_of(path.parents[1]),
    ],
    "inspection": [
        lambda root, path: inspections_of(path.parents[1]),
        lambda root, path: kept_tokens._others(path, {"tokens": [], "cells": []}),
    ],
    "prompts": [lambda root, path: prompts_of(path.parent, [])],
    "choices": [lambda root, path: tuning._read(path)],
    "head scores": [lambda root, path: load_head_scores(path, CONFIG)],
    "published scores": [lambda root, path: load_head_scores(path, CONFIG)],
    "importance": [lambda root, path: load_layer_importance(path, CONFIG)],
    "head tests": [lambda root, path: logged(path)],
}


def put(kinds: dict[str, Any], name: str, root: Path, **damage: Any) -> Path:
    """A folder with a sound file of rows, and a file of this kind that need not be sound."""
    if name != "rows":
        kinds["rows"].write(root)
    return kinds[name].write(root, **damage)


def read(name: str, root: Path, path: Path) -> list[str]:
    """Lets everything read the file; what was refused, in one short line each."""
    refused = []
    for reader in READERS[name]:
        try:
            reader(root, path)
        except UserError as problem:
            refused.append(str(problem))
    assert all("\n" not in line and len(line) < 300 for line in refused), refused
    return refused


def named(name: str, root: Path, path: Path) -> list[str]:
    """What `verify` says of the file."""
    if name in IN_RESULTS:
        try:
            return [line for line in problems(root) if path.name in line]
        except UserError as problem:  # no file of results is left
            return [str(problem)]
    return problems(path)


@pytest.mark.parametrize("name", NAMES)
def test_sound_files_are_sound(name: str, kinds: dict[str, Any], tmp_path: Path) -> None:
    path = put(kinds, name, tmp_path)
    assert not read(name, tmp_path, path)
    assert not list(faults(path))
    wrong = [line for line in named(name, tmp_path, path) if "no run.json" not in line]
    assert not wrong


@pytest.mark.parametrize("damage", sorted(RAW))
@pytest.mark.parametrize("name", NAMES)
def test_garbage_is_refused_or_left_out_and_named(
    name: str, damage: str, kinds: dict[str, Any], tmp_path: Path
) -> None:
    path = put(kinds, name, tmp_path, raw=RAW[damage])
    read(name, tmp_path, path)
    if damage != "nothing" or not kinds[name].lines:
        assert named(name, tmp_path, path)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_its_place_is_named(name: str, kinds: dict[str, Any], tmp_path: Path) -> None:
    path = put(kinds, name, tmp_path)
    path.unlink()
    path.mkdir()
    read(name, tmp_path, path)
    assert named(name, tmp_path, path) if name in IN_RESULTS else list(faults(path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800")
    | st.just("\0"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in it."""
    found = [at]
    if isinstance(content, dict | list):
        inner = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in inner:
            found += places(value, (*at, key))
    return found


def changed(content: Any, at: tuple[Any, ...], value: Any, drop: bool) -> Any:
    """A copy with another value at a place, or with none there."""
    if not at:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    if drop:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return content


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_fuzz(name: str, data: st.DataObject, kinds: dict[str, Any], tmp_path: Path) -> None:
    """Any value anywhere: nothing but `UserError`, and what readers refuse `verify` names."""
    kind = kinds[name]
    lines = kind.content if kind.lines else [kind.content]
    which = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.sampled_from(places(lines[which])))
    value, drop = data.draw(JSON), data.draw(st.booleans())
    new = [*lines]
    new[which] = changed(lines[which], at, value, drop)
    path = put(kinds, name, tmp_path, raw=b"".join(json.dumps(e).encode() + b"\n" for e in new))
    if name == "rows":
        with suppress(UserError):
            summarise(load_results(tmp_path))
        refused = []
    else:
        refused = read(name, tmp_path, path)
    if refused:
        assert named(name, tmp_path, path)
    wrong = list(faults(path))
    if name in IN_RESULTS:
        assert bool(wrong) <= bool(named(name, tmp_path, path))
        remove(waste(tmp_path), [])


def test_gc_takes_what_does_not_fit_and_leaves_the_rest(
    kinds: dict[str, Any], tmp_path: Path
) -> None:
    for name in IN_RESULTS:
        kinds[name].write(tmp_path)
    shutil.copy(tmp_path / kinds["run record"].place, tmp_path / "efficiency/tiny_model")
    sound = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rows, prompts = (tmp_path / kinds[name].place for name in ("rows", "prompts"))
    odd = json.dumps({**kinds["rows"].content[0], "score": "abc"}).encode() + b"\n"
    for path, line in ((rows, odd), (prompts, b"{\n")):
        path.write_bytes(path.read_bytes() + line)
    bad = [rows.parents[2] / "runs" / "b.json", rows.parents[2] / "inspect" / "b.json"]
    for path in bad:
        path.write_bytes(b"[" * 100_000)
    found = problems(tmp_path)
    assert len(found) == 4 and any("score is 'abc'" in line for line in found)
    remove(waste(tmp_path), [])
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    failure = json.dumps(kinds["rows"].content[2]).encode() + b"\n"  # gc takes failures too
    assert left == {**sound, rows: sound[rows].replace(failure, b"")}


def test_an_odd_row_is_left_alone_and_answered_again(
    kinds: dict[str, Any], tmp_path: Path, result: Any
) -> None:
    odd = {**kinds["rows"].content[0], "score": None}
    path = kinds["rows"].write(tmp_path, [odd])
    before = path.read_bytes()
    file = ResultFile(path, "snapkv64")
    assert not file.has("0", "0") and file.foreign == 1
    file.append(result)
    assert path.read_bytes().startswith(before)


def test_what_is_written_fits(tmp_path: Path, result: Any) -> None:
    from dataclasses import replace

    file = ResultFile(tmp_path / "single.jsonl", "cell")
    with pytest.raises(UserError, match=r"row a of .* does not fit: score is 250"):
        file.append(replace(result, score=250.0))
    with pytest.raises(UserError, match="does not fit"):
        file.append(replace(result, score=float("nan")))
    file.append(replace(result, prediction="half \ud800 a pair"))
    assert json.loads((tmp_path / "single.jsonl").read_text())["prediction"] == "half ? a pair"
