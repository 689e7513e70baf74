"""One front door: a mistake is one line and exit code 2, wherever it is made."""

import logging
import subprocess
import sys
from collections.abc import Sequence

import pytest

from headkv.__main__ import TOOLS, hydra_commands, main
from headkv.cli import FAULT, front_door
from headkv.config import ROOT, names
from headkv.errors import UserError


def test_mistakes_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken(arguments: Sequence[str] | None) -> int:
        raise UserError("kv_size=0", allowed="1 or more", do="change kv_size=")

    assert front_door(mistaken) == 2
    said = capsys.readouterr()
    assert said.err == "error: kv_size=0; allowed: 1 or more; change kv_size=\n" and not said.out


def test_other_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(arguments: Sequence[str] | None) -> int:
        raise KeyboardInterrupt

    def faulty(arguments: Sequence[str] | None) -> int:
        raise ZeroDivisionError

    assert front_door(lambda arguments: None) == 0
    assert front_door(lambda arguments: len(arguments or ()), ["a"]) == 1
    assert front_door(stopped) == 130
    assert "run the same command" in capsys.readouterr().err
    assert front_door(faulty) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "ZeroDivisionError" in said and said.endswith(f"{FAULT}\n")


def test_what_is_logged_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("headkv.somewhere")

    def talking(arguments: Sequence[str] | None) -> None:
        log.info("4 rows written")

    assert front_door(lambda arguments: front_door(talking)) == 0
    assert capsys.readouterr().err == "4 rows written\n"
    assert not logging.getLogger("headkv").handlers


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.splitlines() if line.startswith("  ")]
    assert listed == [*hydra_commands(), *TOOLS] and set(names("benchmark")) < set(listed)
    assert main([]) == 0


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nedle"]) == 2
    said = capsys.readouterr().err
    assert "unknown command 'nedle'" in said and "headkv --help" in said and "set " not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_help(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([tool, "--help"])
    assert stopped.value.code == 0 and "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["needle", "metod=snapkv"],
        ["needle", "method=snap"],
        ["needle", "kv_size=8.5"],
        ["needle", "allow_foreign_scores=maybe"],
        ["needle", "scorer=null"],
        ["needle", "kv_size=["],
        ["efficiency", "lengths=0"],
        ["heads", "mode=nothing"],
        ["report", "tables", "/nowhere"],
        ["results", "ls", "/nowhere"],
        ["inspect", "/nowhere"],
        ["scores", "report", "nothing"],
    ],
    ids=" ".join,
)
def test_mistakes_of_every_command(
    words: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["headkv"])
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    said = capfd.readouterr()
    assert code == 2 and len(said.err.splitlines()) == 1, said.err
    assert "allowed" in said.err and not said.out


def test_the_script_and_the_command_compose_the_same() -> None:
    words = ["method=[snapkv,headkv_r2]", "kv_size=[64,128]", "--cfg", "job"]
    said = [
        subprocess.run(
            [sys.executable, *how, *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for how in (["run_needle.py"], ["-m", "headkv", "needle"])
    ]
    assert said[0] == said[1] and "headkv_r2" in said[0]
