"""What is measured on: a model, its own weights or random ones, and prompts of any length."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import headkv.cache.attention  # noqa: F401  (registers the attention function)
from headkv.benchmarks.haystack import find_essays, read_essays
from headkv.efficiency.settings import SHAPE
from headkv.errors import UserError, choose
from headkv.models.loading import load_model
from headkv.models.spec import DTYPES, SCORE_KINDS, ModelSpec
from headkv.records import text_config
from headkv.storage.head_scores import save_head_scores

SKEW = 6
"""Synthetic head scores are uniform numbers to this power, so that a few heads have most."""


@dataclass(frozen=True)
class Workload:
    """A model and the tokens it is fed.

    Attributes:
        name: name of the model and of the folder of its results.
        spec: what the model's yaml says; names its head-score files.
        model: the transformers model.
        tokens: token ids, int64 `[token]`, at least one; longer prompts repeat them.
        prompt: what the tokens are, for the record.
        weights: `own` or `random`.
        head_scores: where HeadKV's scores come from, for the record.
    """

    name: str
    spec: ModelSpec
    model: Any
    tokens: Tensor
    prompt: str
    weights: str = "own"
    head_scores: str = "measured"

    def ids(self, length: int) -> Tensor:
        """Returns a prompt of exactly `length` tokens, int64 `[1, length]`."""
        repeats = -(-length // len(self.tokens))
        return self.tokens.repeat(repeats)[None, :length].to(self.model.device)


def real_workload(spec: ModelSpec, data_dir: Path | None, longest: int) -> Workload:
    """Loads a model with its own weights, and essays to read.

    Args:
        spec: the model.
        data_dir: the user's data, whose `haystack/` is read if it has essays; else those of the
            needle benchmark.
        longest: tokens of the longest prompt and answer.

    Raises:
        UserError: the model or the essays cannot be had, or `longest` exceeds its context.
    """
    text = "\n\n".join(read_essays(find_essays(data_dir)))
    model, tokenizer = load_model(spec)
    limit = int(text_config(model.config).max_position_embeddings)
    if longest > limit:
        raise UserError(
            f"{longest} tokens of prompt and answer on {spec.name}",
            allowed=f"up to {limit}, its context length",
            do="lower lengths= or new_tokens=",
        )
    tokens = torch.tensor(tokenizer(text, verbose=False).input_ids)
    return Workload(spec.name, spec, model, tokens, "essays")


def random_workload(
    shape: Mapping[str, Any], dtype: str, longest: int, seed: int, scores: Path
) -> Workload:
    """Makes a Llama of the given shape with random weights, and random tokens to read.

    For timing and memory alone: how long a forward pass takes hardly depends on what the weights
    are. What does depend on them is which tokens a method keeps, and with it Ada-KV's budgets.

    Args:
        shape: fields of `LlamaConfig`, and `name`.
        dtype: one of `DTYPES`; auto is bfloat16 on a GPU, float32 on the CPU.
        longest: tokens of the longest prompt and answer; the context is made to fit.
        seed: seed of weights, tokens and head scores.
        scores: file that synthetic head scores are written to, as HeadKV needs some.

    Raises:
        UserError: a field that is unknown or does not fit the others.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fields = {key: value for key, value in shape.items() if key != "name"}
    for key in fields:
        choose("key of shape", key, SHAPE)
    fields["max_position_embeddings"] = max(longest, fields.get("max_position_embeddings") or 0)
    chosen = choose("dtype", dtype, DTYPES)
    if chosen == "auto":
        chosen = "float32" if device.type == "cpu" else "bfloat16"
    torch.manual_seed(seed)
    try:
        config = LlamaConfig(**fields, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
        with device:
            model = LlamaForCausalLM._from_config(
                config, attn_implementation="headkv", dtype=getattr(torch, chosen)
            ).eval()
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as problem:
        raise UserError(
            f"no model of shape {dict(shape)}: {problem}",
            allowed="sizes that fit each other and into memory",
            do="change shape=",
        ) from problem
    generator = torch.Generator().manual_seed(seed)
    heads = torch.rand(config.num_hidden_layers, config.num_attention_heads, generator=generator)
    save_head_scores(scores, [heads**SKEW], {"model": "none: synthetic", "seed": seed})
    tokens = torch.randint(config.vocab_size, (min(longest, 2**16),), generator=generator)
    name = str(shape.get("name") or "random")
    spec = ModelSpec(name, "random", head_scores=dict.fromkeys(SCORE_KINDS, str(scores)))
    return Workload(name, spec, model, tokens, "random tokens", "random", "synthetic, skewed")
