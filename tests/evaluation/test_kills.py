"""SIGKILL at random instants, then the same command again: nothing lost, doubled or different.

A hundred kills by default, over runs, head scores, merges and reports of a tiny model; thirty of
the real one's runs:

    HEADKV_KILLS=30 HEADKV_KILLS_MODEL=smollm2_135m HEADKV_KILLS_SEED=1 \
        .venv/bin/python -m pytest -m slow -s tests/evaluation/test_kills.py -k runs
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headkv.results.__main__ import main as results

KILLS = int(os.environ.get("HEADKV_KILLS", "100"))
SEED = int(os.environ.get("HEADKV_KILLS_SEED", "0"))
SHARE = {"runs": 0.3, "heads": 0.2, "merges": 0.25, "reports": 0.25}
PRELOAD = [
    "headkv.evaluation.job",
    "headkv.calibration.job",
    "headkv.benchmarks.needle",
    "headkv.report.__main__",
    "headkv.report.html.page",
    "headkv.report.figures.accuracy",
    "headkv.results.__main__",
    "headkv.__main__",
]
HEADS = [
    "tests.lengths=[96,128]",
    "tests.depths=4",
    "tests.repetitions=2",
    "tests.teacher_forcing=true",
]
Command = tuple[str, list[str]]
"""What is run: a script of Hydra's, or `report` or `results`; and its arguments."""


def work(command: Command) -> None:
    """One command, in a process of its own."""
    from headkv.__main__ import main as headkv

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (it is about to be killed)
    sys.exit(headkv([command[0], *command[1]]))


class Killer:
    """Starts commands, forked from a server that has imported everything, and kills them."""

    def __init__(self) -> None:
        self.chance = random.Random(SEED)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        first = self.context.Process(target=time.sleep, args=(0,))  # waits for the imports
        first.start()
        first.join()

    def whole(self, command: Command) -> float:
        """Lets a command end; the seconds it took."""
        began = time.monotonic()
        process = self.context.Process(target=work, args=(command,))
        process.start()
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - began

    def killed(self, command: Command, longest: float) -> bool:
        """Whether the kill came in time; else the command has ended by itself, and well."""
        process = self.context.Process(target=work, args=(command,))
        process.start()
        process.join(self.chance.uniform(0, 0.85 * longest))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        return process.exitcode != 0

    def kill(
        self,
        kills: int,
        longest: float,
        command: Callable[[Path], Command],
        begin: Callable[[int], Path],
        check: Callable[[Path], None],
    ) -> str:
        """Kills a command so often, each time beginning anew once it has ended by itself.

        Args:
            kills: how often.
            longest: seconds after which it is killed at the latest.
            command: for a folder.
            begin: makes the n-th folder.
            check: of a folder in which the command has ended.
        """
        done, ended = 0, 0
        folder = begin(ended)
        while done < kills:
            if self.killed(command(folder), longest):
                done += 1
                continue
            check(folder)
            ended += 1
            folder = begin(ended)
        self.whole(command(folder))
        check(folder)
        return f"{done} kills, {ended + 1} completed"


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


@pytest.fixture(scope="module")
def whole(
    killer: Killer, needle_grid: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """An undisturbed run, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    seconds = killer.whole(("needle", [*needle_grid.arguments, f"output_dir={folder}"]))
    assert len(needle_grid.rows_of(folder)) == needle_grid.rows
    return folder, seconds


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return say


def sound(killed: Path, whole: Path, needle_grid: Any) -> None:
    """Both hold the same rows, each once, and make the same tables."""
    results(["gc", str(killed), "--yes"])
    assert needle_grid.rows_of(killed) == needle_grid.rows_of(whole)
    assert needle_grid.tables(killed) == needle_grid.tables(whole)
    assert results(["verify", str(killed)]) == 0
    assert not list(killed.rglob("*.partial"))


def kills(kind: str) -> int:
    return max(round(SHARE[kind] * KILLS), 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs(
    killer: Killer, whole: tuple[Path, float], needle_grid: Any, tmp_path: Path, say: Any
) -> None:
    reference, seconds = whole
    amid = 0

    def command(folder: Path) -> Command:
        nonlocal amid
        amid += any(folder.glob("needle/*/*/*/*.jsonl"))
        return "needle", [*needle_grid.arguments, f"output_dir={folder}"]

    said = killer.kill(
        kills("runs"),
        seconds,
        command,
        lambda number: tmp_path / f"killed-{number}",
        lambda folder: sound(folder, reference, needle_grid),
    )
    say(f"runs: {said}; {amid} starts with rows written")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_heads(killer: Killer, needle_grid: Any, tmp_path: Path, say: Any) -> None:
    model = [each for each in needle_grid.arguments if each.startswith("model")]

    def command(folder: Path) -> Command:
        return "heads", [*model, *HEADS, f"output={folder}/scores.json"]

    def content(folder: Path) -> dict[str, Any]:
        found = json.loads((folder / "scores.json").read_text())
        for key in ("started", "finished"):
            del found["header"][key]
        return found

    def check(folder: Path) -> None:
        assert content(folder) == content(tmp_path / "whole")
        for path in folder.glob(".*.partial"):  # of a kill amid the last write
            path.unlink()
        assert [path.name for path in folder.iterdir()] == ["scores.json"]

    seconds = killer.whole(command(tmp_path / "whole"))
    said = killer.kill(
        kills("heads"), seconds, command, lambda number: tmp_path / f"killed-{number}", check
    )
    say(f"heads: {said}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_merges(
    killer: Killer, whole: tuple[Path, float], needle_grid: Any, tmp_path: Path, say: Any
) -> None:
    sources = [tmp_path / "a", tmp_path / "b"]
    for index, source in enumerate(sources):
        arguments = [*needle_grid.arguments, f"output_dir={source}", f"shard={index}/2"]
        killer.whole(("needle", arguments))

    def files() -> dict[Path, bytes]:
        every = [path for source in sources for path in source.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in every}

    def command(folder: Path) -> Command:
        return "results", ["merge", str(folder), *map(str, sources)]

    def begin(number: int) -> Path:
        folder = tmp_path / f"merged-{number}"
        if number % 2:  # shards side by side in one folder, to be joined in place
            shutil.copytree(sources[0], folder)
        return folder

    before = files()
    seconds = killer.whole(command(tmp_path / "first"))
    sound(tmp_path / "first", whole[0], needle_grid)
    said = killer.kill(
        kills("merges"),
        seconds,
        command,
        begin,
        lambda folder: sound(folder, whole[0], needle_grid),
    )
    assert files() == before
    say(f"merges: {said}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_reports(
    killer: Killer, whole: tuple[Path, float], needle_grid: Any, tmp_path: Path, say: Any
) -> None:
    def command(folder: Path) -> Command:
        return "report", ["tables", "figures", "html", str(folder)]

    def begin(number: int) -> Path:
        return Path(shutil.copytree(whole[0], tmp_path / f"report-{number}"))

    def made(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for kind in ("tables", "figures")
            for path in sorted((folder / kind).iterdir())
            if path.suffix in (".csv", ".md", ".tex", ".png")
        }

    def check(folder: Path) -> None:
        sound(folder, whole[0], needle_grid)
        assert made(folder) == made(first)
        page = (folder / "report" / "index.html").read_text(encoding="utf-8")
        assert page.rstrip().endswith("</html>")

    first = begin(-1)
    seconds = killer.whole(command(first))
    said = killer.kill(kills("reports"), seconds, command, begin, check)
    say(f"reports: {said}")
