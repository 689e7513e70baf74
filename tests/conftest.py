"""Tiny models with random weights, shared by the tests of the cache and the methods."""

import pytest
import torch
from builders import HEADS, KV_HEADS, LAYERS
from transformers import LlamaConfig, LlamaForCausalLM

import headkv.cache.attention  # noqa: F401  (registers attn_implementation="headkv")


@pytest.fixture(scope="session")
def tiny() -> LlamaForCausalLM:
    """Three layers, six query heads, two KV heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=16,
        vocab_size=97,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="headkv").eval()
