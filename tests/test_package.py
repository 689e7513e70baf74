"""`import headkv` is enough: for transformers, in any order, and without waiting for torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import headkv

LOAD = "AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation='headkv')"
RUN = "model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, do_sample=False)"
# Where nothing but torch is imported yet, once for all orders: a child for each.
EACH = """
import os, sys, torch
for name, order in ORDERS.items():
    if not os.fork():
        code = 1
        try:
            exec(order)
            code = 0
        finally:
            os._exit(code)
    assert os.wait()[1] == 0, name
"""
ORDERS = {
    "headkv first": "import headkv\nfrom transformers import AutoModelForCausalLM",
    "transformers first": "import transformers\nimport headkv\n"
    "from transformers import AutoModelForCausalLM",
    # It imports the modules of both registers.
    "a model's class first": "from transformers import AutoModelForCausalLM, LlamaForCausalLM\n"
    "import headkv",
    "our cache first": "import headkv.cache\nfrom transformers import AutoModelForCausalLM",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=31,
    )
    LlamaForCausalLM(config).save_pretrained(found)
    return found


def test_the_attention_is_known_in_any_order(folder: Path) -> None:
    orders = {name: f"{order}\nmodel = {LOAD}\n{RUN}" for name, order in ORDERS.items()}
    program = f"ORDERS = {orders!r}\n{EACH}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_torch_waits() -> None:
    program = (
        "import sys, headkv; dir(headkv); headkv.load_results; headkv.UserError\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there_and_listed() -> None:
    assert set(headkv.__all__) == set(headkv._HOMES) <= set(dir(headkv))
    for name in headkv.__all__:
        assert getattr(headkv, name) is not None
