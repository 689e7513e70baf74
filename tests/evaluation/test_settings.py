"""Every key that a run takes is typed and bounded; a mistake is one line, before a model loads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headkv.config import ROOT, compose
from headkv.efficiency.settings import PLAN_KEYS, Plan
from headkv.errors import UserError
from headkv.evaluation.settings import Protocol, Settings


def parsed(*overrides: str) -> Settings:
    return Settings.parse(compose("needle", overrides))


def plan(*overrides: str) -> Plan:
    config = compose("efficiency", overrides)
    Settings.parse(config, PLAN_KEYS)
    return Plan.parse(config)


def test_defaults() -> None:
    settings = parsed()
    assert settings.kv_sizes == (128,) and settings.output_dir == ROOT / "results"
    assert settings.scorer == settings.allocator == () and settings.benchmark is not None
    assert settings.protocol == Protocol("corrected", True, True, True, 0)
    assert settings.raw["kv_size"] == 128


@pytest.mark.parametrize("word", ["no", "off", "false", "No"])
@pytest.mark.parametrize(
    "key", ["allow_foreign_scores", "fidelity", "dry_run", "protocol.keep_template"]
)
def test_no_is_false(key: str, word: str) -> None:
    """It was true wherever a text was taken for a boolean."""
    settings = parsed(f"{key}={word}")
    *_, last = key.split(".")
    assert getattr(settings.protocol if "." in key else settings, last) is False


def test_yes_is_true() -> None:
    assert parsed("allow_foreign_scores=yes").allow_foreign_scores is True


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("allow_foreign_scores=maybe", "true or false"),
        ("allow_foreign_scores=0", "allow_foreign_scores=0.*true or false"),
        ("allow_foreign_scores=null", "allow_foreign_scores=None"),
        ("protocol.keep_template=3", r"protocol\.keep_template=3"),
        ("protocol.min_new_tokens=-1", r"protocol\.min_new_tokens=-1"),
        ("protocol.min_new_tokens=1.5", r"protocol\.min_new_tokens=1\.5.*whole number"),
        ("protocol.name=fast", "'corrected' or 'paper'"),
        ("+protocol.keep_templates=true", r"protocol\.keep_templates"),
        ("+colour=red", "unknown setting 'colour'"),
        ("kv_size=8.5", r"kv_size=8\.5.*whole number.*change kv_size="),
        ("kv_size=[64,0]", "kv_size=0"),
        ("kv_size=[]", "kv_size.*one or more"),
        ("kv_size=true", "kv_size=True"),
        ("kv_size=null", "kv_size"),
        ("limit=0", "limit=0"),
        ("limit=all", "limit='all'"),
        ("batch_size=-2", "batch_size=-2"),
        ("cells_per_batch=two", "cells_per_batch='two'"),
        ("seed=-1", "seed=-1"),
        ("seed=1.0", r"seed=1\.0"),
        ("beta=0.5", r"beta=0\.5.*'choose' or 'chosen'"),
        ("beta=best", "beta='best'"),
        ("tune=beta", "tune='beta'"),
        ("granularity=head", "'kv_head' or 'query_head'"),
        ("compress_on=answer", "'prompt' or 'context'"),
        ("probe=task", "probe=task with compress_on=prompt.*compress_on=context"),
        ("probe=answer", "probe"),
        ("rerotate=true", "rerotate=True with compress_on=prompt"),
        ("probe_chunks=0", "probe_chunks=0"),
        ("shard=2/2", "shard=2/2"),
        ("data_dir=no/such/folder", "data_dir=no/such/folder"),
        ("output_dir=3", "output_dir=3"),
        ("head_scores=3", "head_scores=3"),
        ("task=3.5", r"task=3\.5"),
        ("+scorer.x=1", "scorer"),
    ],
)
def test_mistakes(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        parsed(override)
    assert len(str(refused.value).splitlines()) == 1


def test_chunks_are_those_of_a_probe() -> None:
    with pytest.raises(UserError, match="probe_chunks=2 with compress_on=context"):
        parsed("compress_on=context", "probe_chunks=2")
    settings = parsed("compress_on=context", "probe=task", "probe_chunks=2", "rerotate=yes")
    assert settings.probe_chunks == 2 and settings.rerotate


def test_a_missing_key_is_named() -> None:
    config = compose("needle")
    del config["methods"]
    with pytest.raises(UserError, match="methods is missing"):
        Settings.parse(config)
    del (config := compose("needle"))["protocol"]["keep_template"]
    with pytest.raises(UserError, match=r"protocol\.keep_template is missing"):
        Settings.parse(config)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("kv_size=[64,128,64]", "kv_sizes", (64, 128)),
        ("scorer=window", "scorer", ("window",)),
        ("allocator=[uniform,pyramid]", "allocator", ("uniform", "pyramid")),
        (
            "scorer={name: window, window_size: 4}",
            "scorer",
            ({"name": "window", "window_size": 4},),
        ),
        ("tune=allocator.beta", "tune", "allocator.beta"),
        ("beta=chosen", "beta", "chosen"),
        ("beta=2", "beta", 2),
        ("task=[single,keyed]", "task", ["single", "keyed"]),
    ],
)
def test_what_is_taken(override: str, key: str, value: Any) -> None:
    assert getattr(parsed(override), key) == value


def test_replacing_keeps_the_checks() -> None:
    settings = replace(parsed(), output_dir=Path("/tmp/elsewhere"), fidelity=False)
    assert settings.output_dir == Path("/tmp/elsewhere")
    with pytest.raises(ValueError, match="limit"):
        replace(settings, limit=0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lengths=[1024,0]", "lengths=0"),
        ("lengths=[]", "lengths.*one or more"),
        ("new_tokens=1.5", r"new_tokens=1\.5"),
        ("repeats=0", "repeats=0"),
        ("repeats=[1,2]", r"repeats=\[1, 2\]"),
        ("warmup=-1", "warmup=-1"),
        ("threads=0", "threads=0"),
        ("force=often", "force='often'"),
        ("task=single", "task"),
        ("limit=3", "limit"),
        ("compress_on=context", "compress_on"),
    ],
)
def test_mistakes_of_the_efficiency_experiment(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan(override)


def test_the_plan() -> None:
    made = plan("lengths=512", "new_tokens=[1,8]", "dynamic_cache=no", "threads=2")
    assert (made.lengths, made.new_tokens, made.dynamic_cache) == ((512,), (1, 8), False)
    assert made.steps == 7 and made.longest == 520
