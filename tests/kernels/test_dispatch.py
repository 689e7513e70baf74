"""Which backend is chosen, and how one that cannot serve says so."""

import importlib.util

import pytest
import torch

from headkv.errors import UserError
from headkv.kernels import attend, available, dispatch, flash_varlen
from headkv.kernels.ragged import Ragged

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends that a machine has what is named, and that tensors are on its GPU."""

    def pretend(*present: str) -> None:
        has = {"segments", "reference", *present}
        monkeypatch.setattr(
            dispatch, "missing", lambda name, device: None if name in has else f"no {name} here"
        )
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)

    monkeypatch.delenv("HEADKV_BACKEND", raising=False)
    return pretend


def sample(dtype: torch.dtype = torch.bfloat16, width: int = 64) -> tuple[torch.Tensor, Ragged]:
    counts = torch.tensor([[5, 9]])
    prefix = Ragged(torch.randn(14, width).to(dtype), torch.randn(14, width).to(dtype), counts)
    return torch.randn(1, 4, 1, width).to(dtype), prefix


@pytest.mark.parametrize(
    ("present", "dtype", "width", "softcap", "chosen"),
    [
        (("triton", "flash", "varlen"), torch.bfloat16, 64, None, "triton"),
        (("triton", "flash", "varlen"), torch.float32, 64, 30.0, "triton"),
        (("flash", "varlen"), torch.float16, 80, 30.0, "flash"),
        (("flash", "varlen"), torch.float32, 64, None, "segments"),
        (("varlen",), torch.bfloat16, 64, None, "varlen"),
        (("varlen",), torch.bfloat16, 64, 30.0, "segments"),
        (("varlen",), torch.bfloat16, 60, None, "segments"),
        (("triton", "flash", "varlen"), torch.bfloat16, 320, None, "segments"),
        ((), torch.bfloat16, 64, None, "segments"),
    ],
)
def test_a_gpu_takes_the_first_that_can(
    machine, present, dtype, width: int, softcap: float | None, chosen: str
) -> None:
    machine(*present)
    assert dispatch.backend_for(*sample(dtype, width), softcap) == chosen


def test_the_cpu_takes_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADKV_BACKEND", raising=False)
    assert dispatch.backend_for(*sample()) == "segments"


def test_the_variable_chooses_and_the_argument_overrides(
    machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("triton", "flash")
    monkeypatch.setenv("HEADKV_BACKEND", "flash")
    assert dispatch.backend_for(*sample()) == "flash"
    assert dispatch.backend_for(*sample(), backend="reference") == "reference"
    monkeypatch.setenv("HEADKV_BACKEND", "fast")
    with pytest.raises(UserError, match=r"HEADKV_BACKEND 'fast'.*flash, reference.*triton, varlen"):
        attend(*sample(), 0.1)


def test_what_cannot_be_used_is_refused_with_the_reason(
    machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"'flash'.*needs a GPU.*cpu; allowed: reference, segments"):
        attend(*sample(), 0.1, backend="flash")
    machine("flash", "varlen")
    for backend, softcap, dtype, why in (
        ("triton", None, torch.bfloat16, "no triton here"),
        ("flash", None, torch.float32, "does not take torch.float32"),
        ("varlen", 30.0, torch.bfloat16, "has no soft cap"),
    ):
        with pytest.raises(UserError, match=f"{backend!r} cannot be used: .*{why}"):
            attend(*sample(dtype), 0.1, softcap, backend)
    monkeypatch.setenv("HEADKV_BACKEND", "triton")
    with pytest.raises(UserError, match="set HEADKV_BACKEND="):
        attend(*sample(), 0.1)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = ("triton", "flash_attn")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = torch.device("cuda", 7)
    dispatch.missing.cache_clear()
    flash_varlen.flash_function.cache_clear()
    assert dispatch.missing("triton", gpu) == "Triton is not installed"
    assert dispatch.missing("flash", gpu) == "flash-attn is not installed"
    assert dispatch.missing("varlen", gpu) is None
    assert available(gpu) == ["reference", "segments", "varlen"]
    dispatch.missing.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "8.0" in (dispatch.missing("varlen", gpu) or "")
    dispatch.missing.cache_clear()


def test_biased_entries_go_where_they_are_served(machine) -> None:
    """No library takes a bias; an entry without its own would be wrong and nobody would know."""
    machine("flash", "varlen")
    query, prefix = sample()
    prefix.bias = torch.ones(14)
    assert dispatch.backend_for(query, prefix) == "segments"
    for backend in ("flash", "varlen"):
        with pytest.raises(UserError, match=f"{backend!r} cannot be used: it takes no bias"):
            attend(query, prefix, 0.1, backend=backend)
    machine("triton", "flash")
    assert dispatch.backend_for(query, prefix) == "triton"
