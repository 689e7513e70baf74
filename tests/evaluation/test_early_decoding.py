"""What cannot be done while decoding is said before a model is loaded, as building would say it."""

import pytest
from transformers import LlamaConfig

from headkv.config import compose, names
from headkv.errors import UserError
from headkv.evaluation.early import check_methods, check_model
from headkv.evaluation.grid import build_cells
from headkv.evaluation.settings import Settings
from headkv.stream.settings import check_stream


def checked(*overrides: str) -> Settings:
    config = compose("needle", overrides)
    settings = Settings.parse(config)
    check_methods(settings, check_model(config))
    return settings


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("decode_kv_size=256 compress_every=4", "below snapkv's window of 8"),
        ("decode_kv_size=8", "does not exceed snapkv's window"),
        ("compress_every=64", "no decode_kv_size"),
        ("decode_kv_size=0", "decode_kv_size"),
        ("decode_kv_size=256 scorer=kvzip", r"kvzip reads \(repetition\)"),
        ("decode_kv_size=256 method=kvzip", r"kvzip reads \(repetition\)"),
        ("decode_kv_size=256 method=compactor", r"compactor reads \(noncausal_attention\)"),
        ("decode_kv_size=256 scorer=chunk scorer.base=kvzip", r"chunk reads \(repetition\)"),
        ("decode_kv_size=256 scorer=tova method=headkv_r2", "joins the heads"),
        ("decode_kv_size=256 entries=merge", "made of the whole prompt"),
        ("decode_kv_size=256 method=balancekv", "made of the whole prompt"),
        ("bits=3", "bits"),
        ("offload=disk", "offload"),
    ],
)
def test_mistakes_are_found_without_a_model(overrides: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        checked("method=snapkv", *overrides.split())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_building_refuses_no_more_and_no_less() -> None:
    """Parts read off their source say what the built ones do."""
    spec = check_model(compose("needle"))
    config = LlamaConfig(
        num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576
    )
    refused = set()
    for name in names("method"):
        if name == "cokv":  # has no scores of this model
            continue
        overrides = [f"method={name}", "decode_kv_size=64", "allow_foreign_scores=true"]
        settings = Settings.parse(compose("needle", overrides))
        try:
            build_cells(settings, spec, config)
        except UserError as problem:
            refused.add(name)
            with pytest.raises(UserError) as caught:
                checked(*overrides)
            assert str(caught.value) == str(problem).replace("+decode64", "")
        else:
            checked(*overrides)
    assert {"kvzip", "compactor", "balancekv"} <= refused and not {"rkv", "headkv_r2"} & refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("compress_every=2", "below snapkv's window"),
        ("kv_size=8", "does not exceed"),
        ("tokens=500", "tokens=500"),
        ("tokens=100000", "tokens=100000"),
        ("texts=0", "texts"),
        ("method=kvzip", "reads"),
    ],
)
def test_a_stream_is_checked_too(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_stream(compose("stream", ["method=snapkv", override]))
