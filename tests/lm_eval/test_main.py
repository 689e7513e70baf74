"""What the lm-eval command says of its own, without lm-eval."""

import sys

import pytest

from headkv import UserError
from headkv.cli import front_door
from headkv.lm_eval.__main__ import _pairs, main

ASKED = ["--tasks", "any", "--model_args", "pretrained=smollm2_135m,method=fullkv"]


def test_commas_in_brackets_separate_nothing() -> None:
    text = "pretrained=a/b, method=snapkv,scorer={name:window,kernel_size:5},kv_size=64"
    assert _pairs(text) == {
        "pretrained": "a/b",
        "method": "snapkv",
        "scorer": "{name:window,kernel_size:5}",
        "kv_size": "64",
    }


@pytest.mark.parametrize("text", ["", "pretrained", "a=1,,b=2", "=1", "a="])
def test_arguments_that_are_no_pairs_are_named(text: str) -> None:
    with pytest.raises(UserError, match="--model_args has"):
        _pairs(text)


@pytest.mark.parametrize("arguments", [[], ["--tasks", "a"], [*ASKED, "--limit", "few"]])
def test_mistakes_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door(main, arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_lm_eval_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "headkv.lm_eval.harness", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert front_door(main, ASKED) == 2
    assert "pip install 'headkv[lm-eval]'" in capsys.readouterr().err
