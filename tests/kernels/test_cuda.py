"""The backends for GPUs: on a GPU themselves, elsewhere as far as a CPU can prove them.

Without a GPU, Triton's interpreter runs the `triton` backend, its compiler builds it for GPUs that
are not there, and dense stand-ins with the real signatures prove what `flash` and `varlen` hand
over. With one, the same matrix runs every backend that the machine has. What a machine cannot run
is not collected on it.
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from headkv.kernels import BACKENDS, attend, available, dispatch, flash_varlen
from headkv.kernels.ragged import Ragged
from headkv.kernels.reference import attend as reference

CPU = torch.device("cpu")
ON_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
RUNNABLE = available(DEVICE) if ON_GPU else ["triton"] if INTERPRETED else []
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
HALF = [torch.bfloat16, torch.float16]


def ragged(
    counts: torch.Tensor, width: int, dtype: torch.dtype, device: torch.device, biased: bool = False
) -> Ragged:
    entries = int(counts.sum())
    keys, values = torch.randn(2, entries, width, dtype=dtype, device=device)
    bias = torch.rand(entries, device=device) * 4 if biased else None
    return Ragged(keys, values, counts, bias)


def example(
    seed: int,
    batch: int,
    heads: int,
    group: int,
    width: int,
    dtype: torch.dtype,
    queries: int,
    shape: str,
    device: torch.device,
) -> tuple[torch.Tensor, Ragged]:
    torch.manual_seed(seed)
    counts = torch.randint(1, 90, (batch, heads))
    if shape == "equal":
        counts[:] = counts[0, 0]
    elif shape == "one and all":
        counts[:, 0], counts[:, -1] = 1, 300
    query = torch.randn(batch, heads * group, queries, width, dtype=dtype, device=device)
    return query, ragged(counts, width, dtype, device)


def assert_agrees(
    got: tuple[torch.Tensor, torch.Tensor],
    query: torch.Tensor,
    prefix: Ragged,
    scaling: float,
    softcap: float | None,
) -> None:
    wanted, wanted_lse = reference(query.float(), prefix, scaling, softcap)
    assert got[0].dtype == query.dtype and got[1].dtype == torch.float32
    assert got[0].shape == query.shape and got[1].shape == query.shape[:3]
    assert float((got[0].float() - wanted).abs().max()) < TOLERANCE[query.dtype]
    assert float((got[1] - wanted_lse).abs().max()) < TOLERANCE[query.dtype]


if INTERPRETED:
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    def exact_dot(self, left, right, *rest, dot=InterpreterBuilder.create_dot):
        """The interpreter keeps bfloat16 as uint16 and multiplies those: widen them first."""
        if left.dtype.scalar == tl.bfloat16:
            left, right = self.cast_impl(left, tl.float32), self.cast_impl(right, tl.float32)
        return dot(self, left, right, *rest)

    InterpreterBuilder.create_dot = exact_dot


if RUNNABLE:

    class TestOnThisMachine:
        @pytest.mark.parametrize("backend", RUNNABLE)
        # Interpreted, shrinking a failure takes minutes and would end in a timeout.
        @settings(
            max_examples=200 if ON_GPU else 10,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        )
        @given(
            seed=st.integers(0, 2**31),
            batch=st.sampled_from([1, 2, 8] if ON_GPU else [1, 3]),
            heads=st.integers(1, 3),
            group=st.sampled_from([1, 3, 4, 8]),
            width=st.sampled_from([64, 80, 128]),
            dtype=st.sampled_from(sorted(TOLERANCE, key=str)),
            queries=st.sampled_from([1, 1, 5, 20]),
            shape=st.sampled_from(["ragged", "equal", "one and all"]),
            softcap=st.sampled_from([None, None, 3.0]),
            tile=st.sampled_from([96, 256]),
        )
        def test_backends_equal_dense_attention(
            self,
            backend: str,
            seed: int,
            batch: int,
            heads: int,
            group: int,
            width: int,
            dtype: torch.dtype,
            queries: int,
            shape: str,
            softcap: float | None,
            tile: int,
        ) -> None:
            """Tiles of 96 are one and a half blocks, and cut 300 entries in four."""
            query, prefix = example(seed, batch, heads, group, width, dtype, queries, shape, DEVICE)
            if dispatch._problem(backend, query, prefix, softcap):
                return
            with pytest.MonkeyPatch.context() as patch:
                if backend == "triton":
                    module = importlib.import_module("headkv.kernels.triton_decode")
                    patch.setattr(module, "TILE", tile)
                got = attend(query, prefix, width**-0.5, softcap, backend)
            assert_agrees(got, query, prefix, width**-0.5, softcap)

        if "triton" in RUNNABLE:

            @pytest.mark.parametrize("width", [96, 256])
            def test_triton_takes_other_widths(self, width: int) -> None:
                query, prefix = example(0, 1, 2, 4, width, torch.float16, 1, "one and all", DEVICE)
                assert_agrees(attend(query, prefix, 0.1, None, "triton"), query, prefix, 0.1, None)

            @pytest.mark.parametrize("counts", [[[30, 30]], [[1, 300, 40], [90, 7, 12]]])
            @pytest.mark.parametrize("softcap", [None, 5.0])
            def test_triton_adds_the_bias_of_entries(self, counts: list, softcap) -> None:
                prefix = ragged(torch.tensor(counts), 64, torch.float32, DEVICE, biased=True)
                query = torch.randn(len(counts), 3 * len(counts[0]), 1, 64, device=DEVICE)
                got = attend(query, prefix, 0.1, softcap, "triton")
                assert_agrees(got, query, prefix, 0.1, softcap)

            @pytest.mark.parametrize(
                ("batch", "dtype"),
                [(1, torch.bfloat16), (4, torch.bfloat16), (32, torch.float32)],
            )
            def test_triton_serves_8b_models_with_skewed_heads(
                self, batch: int, dtype: torch.dtype
            ) -> None:
                """Llama-3-8B and Qwen3-8B: 32 query heads, 8 KV heads of 128; lists of 5 to 320."""
                torch.manual_seed(batch)
                counts = torch.full((batch, 8), 5)
                counts[:, 3], counts[:, 5] = 320, 64
                prefix = ragged(counts, 128, dtype, DEVICE)
                query = torch.randn(batch, 32, 1, 128, dtype=dtype, device=DEVICE)
                got = attend(query, prefix, 128**-0.5, None, "triton")
                assert_agrees(got, query, prefix, 128**-0.5, None)

            @pytest.mark.parametrize("row", [0, 2])
            def test_triton_computes_a_sequence_in_a_batch_as_alone(self, row: int) -> None:
                """Bit for bit, whatever its neighbours hold: nothing of theirs is read."""
                query, prefix = example(1, 3, 2, 4, 64, torch.float32, 1, "one and all", DEVICE)
                alone = prefix.select([row])
                span = slice(prefix.bounds[2 * row], prefix.bounds[2 * row + 2])
                for side in (prefix.keys, prefix.values):
                    side[: span.start], side[span.stop :] = float("nan"), float("inf")
                got = attend(query, prefix, 0.1, None, "triton")
                wanted = attend(query[row : row + 1], alone, 0.1, None, "triton")
                assert torch.equal(got[0][row], wanted[0][0])
                assert torch.equal(got[1][row], wanted[1][0])


QUANTISED = "test_attention_is_that_over_the_numbers"

if HAS_TRITON and not RUNNABLE:

    def test_triton_in_its_interpreter() -> None:
        """In a process of its own: Triton asks for the variable as it is imported."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--noconftest",
                "-p",
                "no:cacheprovider",
                f"{__file__}::TestOnThisMachine",
                f"{Path(__file__).parent / 'test_quantised.py'}::{QUANTISED}",
            ],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


if HAS_TRITON:
    COMPILE = """
import itertools, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headkv.kernels import triton_decode

for capability, (dtype, bytes_, width, rows, biased) in itertools.product((80, 90), (
    ("bf16", 2, 128, 4, False), ("fp16", 2, 80, 40, True), ("fp32", 4, 128, 4, False),
)):
    options = triton_decode.options(rows, width, width, bytes_)
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    kernel = triton_decode._attend_tile
    types = dict.fromkeys(("query", "keys", "values", "output"), "*" + dtype)
    types |= dict(tiles="*i32", lse="*fp32", scaling="fp32", rows="i32", row_blocks="i32")
    constants = {"softcap": None, **options}
    if biased:
        types["bias"] = "*fp32"
    else:
        constants["bias"] = None
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
    assert built.metadata.shared <= 99 * 1024, (dtype, width, built.metadata.shared)
    assert "cubin" in built.asm
"""

    def test_triton_compiles_for_gpus_that_are_not_there(
        tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the interpreter cannot tell: types, shared memory of the smallest such GPUs."""
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def dense_sequences(query, keys, values, rows_at, entries_at, max_rows, max_entries, scale, cap):
    """Attention of sequences of varying length, `[token, head, width]`, one at a time."""
    assert rows_at.dtype == entries_at.dtype == torch.int32
    assert max_rows == int(rows_at.diff().max()) and max_entries == int(entries_at.diff().max())
    assert (int(rows_at[-1]), int(entries_at[-1])) == (len(query), len(keys)) != (0, 0)
    assert query.shape[1] == keys.shape[1] == values.shape[1] == 1
    output, lse = query.new_empty(query.shape), torch.empty(query.shape[1], len(query))
    for first, last, start, end in zip(
        rows_at, rows_at[1:], entries_at, entries_at[1:], strict=False
    ):
        logits = query[first:last, 0].float() @ keys[start:end, 0].float().T * scale
        logits = torch.tanh(logits / cap) * cap if cap else logits
        output[first:last, 0] = (logits.softmax(1) @ values[start:end, 0].float()).to(query.dtype)
        lse[0, first:last] = logits.logsumexp(1)
    return output, lse


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    """Stands in for flash-attn 2.6 and later, whose signature this is."""
    assert return_attn_probs and not causal and not dropout_p and q.dtype in HALF
    output, lse = dense_sequences(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, softcap
    )
    return output, lse, None


@functools.wraps(varlen.varlen_attn)
def varlen_attn(*args, **kwargs):
    """Stands in for PyTorch's; refuses what the installed function's signature refuses."""
    given_ = inspect.signature(varlen.varlen_attn).bind(*args, **kwargs).arguments
    assert given_.pop("return_aux").lse and set(given_) == {
        "query",
        "key",
        "value",
        "cu_seq_q",
        "cu_seq_k",
        "max_q",
        "max_k",
        "scale",
    }
    scale = given_.pop("scale")
    return dense_sequences(*given_.values(), scale, None)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts both where the backends look for the real ones."""
    package = ModuleType("flash_attn")
    package.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    package.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    functions = flash_varlen.flash_function, flash_varlen.varlen_function
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("backend", "softcap"), [("flash", None), ("flash", 3.0), ("varlen", None)]
)
def test_segments_are_sequences_of_one_head(
    stand_ins: None,
    backend: str,
    softcap: float | None,
    dtype: torch.dtype,
    group: int,
    queries: int,
) -> None:
    query, prefix = example(2, 3, 2, group, 64, dtype, queries, "one and all", CPU)
    got = BACKENDS[backend](query, prefix, 0.1, softcap)
    assert_agrees(got, query, prefix, 0.1, softcap)


def test_lse_of_older_flash_attn_is_read_alike() -> None:
    query = torch.zeros(2, 6, 5, 8)
    lse = torch.arange(60.0)
    new, old = lse.view(1, 60), lse.view(4, 1, 15)
    output = torch.zeros(60, 1, 8)
    assert torch.equal(*(flash_varlen._unpack(output, each, query)[1] for each in (new, old)))


@given(
    counts=st.lists(st.integers(1, 700), min_size=1, max_size=12),
    size=st.sampled_from([1, 64, 256]),
)
def test_tiles_cover_every_segment_once(counts: list[int], size: int) -> None:
    prefix = ragged(torch.tensor([counts]), 1, torch.float32, CPU)
    table, starts = prefix.tiles(size).table.tolist(), prefix.tiles(size).starts.tolist()
    assert starts[-1] == len(table)
    for segment, (start, end) in enumerate(itertools.pairwise(starts)):
        pieces = table[start:end]
        assert {piece[0] for piece in pieces} == {segment}
        assert all(0 < piece[2] <= size for piece in pieces)
        covered = [entry for _, first, long in pieces for entry in range(first, first + long)]
        assert covered == list(range(*prefix.bounds[segment : segment + 2]))


def test_lists_for_kernels_are_counted_made_once_and_tiny() -> None:
    prefix = ragged(torch.tensor([[1000, 24], [1, 2023]]), 128, torch.bfloat16, CPU)
    bare = prefix.nbytes
    assert prefix.tiles(256) is prefix.tiles(256) and prefix.offsets is prefix.offsets
    assert prefix.nbytes - bare == 4 * (3 * (4 + 1 + 1 + 8) + 5 + 5) < bare / 1000
    assert prefix.tiles(2023).whole and not prefix.tiles(256).whole
    assert prefix.select([1]).tiles(256).starts.tolist() == [0, 1, 9]
    assert prefix.select([1]).offsets.tolist() == [0, 1, 2024]
    together = Ragged.stack([prefix.select([1]), prefix.select([0])])
    assert together.tiles(256).starts.tolist() == [0, 1, 9, 13, 14]
