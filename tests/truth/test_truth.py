"""Every method keeps and answers what it did when the truth was recorded, entry by entry."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from truth import cells

import headkv

# A processor with other instructions rounds otherwise, and a near tie may then fall the other way.
MAY_DIFFER = 0.005


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(cells.FILE))


@pytest.fixture(scope="module")
def model_and_prefills(
    recorded: dict[str, np.ndarray], smollm2: tuple[Any, Any]
) -> tuple[Any, Mapping[str, Mapping[str, headkv.Prefilled]]]:
    torch.set_num_threads(1)
    return smollm2[0], cells.prefills(smollm2[0], *cells.load(recorded))


@pytest.mark.parametrize("granularity", cells.GRANULARITIES)
@pytest.mark.parametrize("protocol", cells.PROTOCOLS)
def test_methods_keep_and_answer_what_they_did(
    model_and_prefills: tuple[Any, Mapping[str, Mapping[str, headkv.Prefilled]]],
    recorded: dict[str, np.ndarray],
    protocol: str,
    granularity: str,
) -> None:
    model, prefilled = model_and_prefills
    exact = bool((cells.logits(prefilled) == recorded["logits"]).all())
    some = [cells.Cell(method, protocol, granularity) for method in cells.METHODS]
    tail, compared = int(recorded["template_tokens"]), set()
    for name, prompt in prefilled[protocol].items():
        for key, value in cells.truth_of(model, some, name, prompt, tail):
            wanted = recorded[key]
            compared.add(key)
            assert value.shape == wanted.shape, key
            if exact or key.startswith("budgets"):
                assert (value == wanted).all(), key
            elif key.startswith("kept"):
                apart, held = np.unpackbits(value ^ wanted).sum(), np.unpackbits(wanted).sum()
                assert apart <= MAY_DIFFER * 2 * held, key
    assert compared == {key for key in recorded if f"-{protocol}-{granularity}-" in key}
