"""One loader for Hydra and Python; parameters checked by name, type and presence."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headkv import config
from headkv.benchmarks.needle import NeedleConfig
from headkv.config import CONF, ROOT, compose, instantiate, load_group, names
from headkv.errors import UserError, choose

GROUPS = ["model", "method", "scorer", "allocator", "protocol", "benchmark"]
WINDOW = "headkv.methods.scorers.window.WindowScorer"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of yamls in place of ours, with the method `mine` missing from it."""
    place = tmp_path / "conf"
    for path in CONF.rglob("*.yaml"):
        target = place / path.relative_to(CONF)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    monkeypatch.setattr("headkv.config.yamls.CONF", place)
    yield place


def write(conf: Path, text: str) -> None:
    (conf / "method" / "mine.yaml").write_text(text)


OWN = "scorer: {name: window}\nallocator: uniform\n"


@pytest.mark.parametrize("group", GROUPS)
def test_the_command_line_and_python_read_the_same(group: str) -> None:
    """Every yaml composed as a script does it and loaded from Python."""
    if group == "method":  # at once: composing takes a while
        found = compose("needle", [f"method=[{','.join(names(group))}]"])["methods"]
        assert found == {name: load_group(group, name) for name in names(group)}
        return
    if group in ("scorer", "allocator"):
        composed = compose("needle", [f"{group}=[{','.join(names(group))}]"])
        assert composed[group] == names(group)
        return
    for name in names(group):
        loaded = load_group(group, name)
        if group == "benchmark":
            composed = compose(name)[group]
            assert {key: composed[key] for key in loaded if "$" not in str(loaded[key])} == {
                key: value for key, value in loaded.items() if "$" not in str(value)
            }
        else:
            assert compose("needle", [f"{group}={name}"])[group] == loaded


@pytest.mark.parametrize("how", ["python", "command line"])
@pytest.mark.parametrize("header", ["", "# @package methods.other\n", "# mine\n"])
def test_a_method_that_is_not_filed_under_its_name_is_refused(
    header: str, how: str, conf: Path
) -> None:
    """Hydra would leave it out, or file its rows under another method."""
    write(conf, header + OWN)
    with pytest.raises(UserError, match=r"mine.*@package methods\.mine"):
        if how == "python":
            load_group("method", "mine")
        else:
            compose("needle", ["method=[snapkv,mine]"])


def test_the_script_refuses_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(OWN)
    done = subprocess.run(
        [sys.executable, "run_needle.py", "--config-dir", tmp_path, "method=[snapkv,mine]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "mine.yaml" in done.stderr


def test_defaults_and_interpolations_are_resolved(conf: Path) -> None:
    write(
        conf,
        "# @package methods.mine\ndefaults:\n  - snapkv@_here_\n  - _self_\n"
        "scorer: {window_size: 16, kernel_size: '${.window_size}'}\n",
    )
    loaded = load_group("method", "mine")
    assert (loaded["scorer"]["window_size"], loaded["scorer"]["kernel_size"]) == (16, 16)
    assert loaded["allocator"] == load_group("method", "snapkv")["allocator"]
    assert compose("needle", ["method=[mine]"])["methods"] == {"mine": loaded}


def test_a_method_that_brings_another_along_is_refused(conf: Path) -> None:
    write(conf, f"# @package methods.mine\ndefaults:\n  - snapkv\n  - _self_\n{OWN}")
    for read in (
        lambda: load_group("method", "mine"),
        lambda: compose("needle", ["method=mine"]),
    ):
        with pytest.raises(UserError, match=r"snapkv@_here_"):
            read()


def test_a_changed_file_is_read_again(conf: Path) -> None:
    write(conf, "# @package methods.mine\n" + OWN)
    load_group("method", "mine")["scorer"]["name"] = "changed by the caller"
    assert load_group("method", "mine")["scorer"] == {"name": "window"}
    write(conf, "# @package methods.mine\n" + OWN.replace("window", "recency"))
    assert load_group("method", "mine")["scorer"] == {"name": "recency"}


def test_a_part_comes_by_name_with_what_was_changed() -> None:
    changed = compose("needle", ["scorer=window", "scorer.window_size=16"])["scorer"]
    assert changed == {"name": "window", "window_size": 16}
    assert compose("needle", ["scorer=[window,recency]"])["scorer"] == ["window", "recency"]
    assert compose("needle", ["entries=merge"])["entries"] == "merge"
    with pytest.raises(UserError, match="several"):
        compose("needle", ["scorer=[window,recency]", "scorer.window_size=16"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("metod=snapkv", "metod"),
        ("method=snap", "snap"),
        ("scorer=null", "a string or a list"),
        ("kv_size=[", "kv_size"),
    ],
)
def test_what_hydra_refuses_is_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        compose("needle", [override])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window_size": 8.5}, r"window_size=8\.5.*whole number.*change window_size="),
        ({"window_size": "no"}, "window_size='no'"),
        ({"window_size": True}, "window_size=True"),
        ({"window_size": -1}, "window_size=-1"),
        ({"wndow_size": 8}, "no parameter 'wndow_size'.*window_size.*remove wndow_size="),
        ({"_target_": "headkv.methods.scorers.nowhere.Window"}, "_target_"),
        ({"_target_": "headkv.methods.scorers.window.Nothing"}, "_target_"),
        ({"_target_": "os.system"}, "os.system.*of headkv"),
        ({"_target_": "headkv.config.load_group"}, "is no class"),
        ({"_target_": "headkv.storage.result_file.ResultFile"}, "is no class"),
        ({"_target_": "headkv.methods.part.Path"}, "is no class"),
        ({"_target_": "headkv.methods.scorers.base.Scorer"}, "is no class"),
        ({"_target_": None}, "_target_"),
        ({"_target_": "headkv"}, "_target_"),
    ],
)
def test_parameters_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        instantiate("scorer window", {"_target_": WINDOW} | changes)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_parameter_is_refused() -> None:
    """It became None, whatever the class made of it."""
    with pytest.raises(UserError, match=r"lacks task.*set task="):
        instantiate("benchmark loogle", {"_target_": "headkv.benchmarks.loogle.LooGLE"})


def test_given_none_leaves_the_settings() -> None:
    settings = {"_target_": WINDOW, "window_size": 4}
    assert instantiate("scorer", settings, window_size=None).window_size == 4
    assert instantiate("scorer", settings, window_size=2).window_size == 2
    assert instantiate("scorer", {"_target_": WINDOW}, window_size=None).window_size == 8


def test_lists_stand_for_tuples_and_nothing_is_converted() -> None:
    target = "headkv.benchmarks.needle.NeedleConfig"
    made = instantiate(
        "needle", {"_target_": target, "lengths": [512], "depths": [0, 0.5]}, NeedleConfig
    )
    assert made == NeedleConfig(lengths=(512,), depths=(0, 0.5))
    with pytest.raises(UserError, match="lengths"):
        instantiate("needle", {"_target_": target, "lengths": ["512"]}, NeedleConfig)


def test_choosing_says_what_to_type() -> None:
    for given, words in (
        (("model", "x", ["a"]), "set model= to one of these"),
        (("key of model", "x", ["a"]), "use one of these"),
        (("id", "x", ["a"], "--id takes these"), "--id takes these"),
    ):
        with pytest.raises(UserError, match=words):
            choose(*given)


def test_files_of_yamls_are_found_in_the_checkout_or_beside_conf(tmp_path: Path) -> None:
    assert config.located("pyproject.toml") == ROOT / "pyproject.toml"
    assert config.located(tmp_path / "a.json") == tmp_path / "a.json"
    assert config.located("data/nothing.json") == ROOT / "data" / "nothing.json"
