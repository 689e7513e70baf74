"""Tiny models with random weights, shared by the tests of the cache and the methods."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import headkv.attention  # noqa: F401  (registers attn_implementation="headkv")

LAYERS, HEADS, KV_HEADS = 3, 6, 2
METHODS = ["streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2", "compresskv"]


def head_scores(layers: int = LAYERS, heads: int = HEADS, seed: int = 0) -> torch.Tensor:
    """Skewed scores, as real ones are: a few heads have most of it."""
    return torch.rand(layers, heads, generator=torch.Generator().manual_seed(seed)) ** 6


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
