"""Builders that tests of several folders share."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import headkv.cache.attention  # noqa: F401  (registers attn_implementation="headkv")
from headkv.records import Result

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 101,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


SLIDING = ["sliding_attention", "full_attention"] * 2


FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {},
    "mistral with its window": {"sliding_window": 4096},
    "qwen2": {},
    "qwen2 with windows": {
        "use_sliding_window": True, "sliding_window": 24, "layer_types": SLIDING,
    },
    "qwen3": {},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "gemma2": {
        "sliding_window": 24, "layer_types": SLIDING, "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
    },
    "gemma3_text": {
        "sliding_window": 24, "layer_types": SLIDING, "query_pre_attn_scalar": 16,
    },
    "granite": {"attention_multiplier": 0.1},
    "olmo2": {},
}  # fmt: skip


def make(name: str, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = {**SHAPE, **FAMILIES.get(name, {}), **changes}
    if name.startswith("mistral") and "sliding_window" not in settings:
        settings["sliding_window"] = None
    config = AutoConfig.for_model(name.split()[0], **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="headkv").eval()
    with torch.no_grad():  # larger weights, so that attention is not flat and mistakes show
        for name_, weight in model.named_parameters():
            if "q_proj" in name_ or "k_proj" in name_ or "qkv_proj" in name_:
                weight.mul_(4)
    return model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 101, (2, 50), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :13] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SPECIAL = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]


def byte_tokenizer(
    template: str | None = None, *, eos: str = "</s>", trim_offsets: bool = False
) -> PreTrainedTokenizerFast:
    """One token a byte, `<s>` in front, and the special tokens of all the templates."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    start = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim_offsets), start]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, chat_template=template
    )


LENGTHS, DEPTHS = (1024, 2048), (0.0, 0.25, 0.5, 0.75, 1.0)
SKILL = {"fullkv": 0.95, "streamingllm": 0.25, "snapkv": 0.55, "adakv": 0.6, "headkv_r2": 0.85}


FULL_TOKENS = 90 * 1000


def chance(*parts: object) -> float:
    """A number in 0..1 that depends on nothing but its arguments."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_row(method: str, size: int | None, **changes: Any) -> dict[str, Any]:
    kept = FULL_TOKENS if size is None else 90 * size
    row = {
        "id": "0", "prediction": "a", "answers": ["a"], "score": 100.0, "scores": {},
        "prompt_tokens": 1000, "new_tokens": 5, "kv_size": size, "kept_tokens": kept,
        "cache_bytes": 256 * kept, "full_cache_bytes": 256 * FULL_TOKENS,
        "protocol": "corrected", "granularity": "kv_head",
        "seconds": {"prefill": 1.0, "compress": 0.1, "decode": 0.5},
        "run_key": f"{method}{size}-0",
    }  # fmt: skip
    return row | changes


def needle_rows(method: str, size: int | None, repeats: int = 4) -> list[dict[str, Any]]:
    skill = SKILL.get(method, 0.5) * (1.0 if size is None else min(1.0, (size / 256) ** 0.3))
    return [
        make_row(
            method,
            size,
            id=f"{length}-{depth}-{i}",
            score=100.0 * (chance(method, size, length, depth, i) < skill * (1.1 - length / 9000)),
            length=length,
            depth=depth,
        )
        for length in LENGTHS
        for depth in DEPTHS
        for i in range(repeats)
    ]


def write(
    root: Path,
    method: str,
    size: int | None,
    rows: list[dict[str, Any]],
    benchmark: str = "needle",
    task: str = "single",
) -> Path:
    path = root / benchmark / "tiny_model" / method / str(size or "full") / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def layer_inputs(tokens: int, heads: int = 6, kv_heads: int = 2, batch: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, heads, 8, 16, generator=generator)
    keys = torch.randn(batch, kv_heads, tokens, 16, generator=generator)
    return queries, keys


def brute_force_scores(
    queries: torch.Tensor, keys: torch.Tensor, template: int, granularity: str
) -> list[list[float]]:
    """SnapKV's scores with loops, by the steps of its paper."""
    heads, window, dim = queries.shape
    kv_heads, tokens, _ = keys.shape
    visible = tokens - template
    per_head = []
    for head in range(heads):
        rows = []
        for w in range(window):
            last = visible - window + w
            logits = torch.stack(
                [queries[head, w] @ keys[head // (heads // kv_heads), t] for t in range(last + 1)]
            )
            rows.append(torch.softmax(logits.double() / dim**0.5, 0)[: visible - window])
        mean = torch.stack(rows).mean(0).tolist()
        pooled = [max(mean[max(t - 3, 0) : t + 4]) for t in range(len(mean))]
        per_head.append(pooled)
    if granularity == "query_head":
        return per_head
    group = heads // kv_heads
    return [
        [sum(row[t] for row in per_head[g * group : (g + 1) * group]) for t in range(len(mean))]
        for g in range(kv_heads)
    ]


LAYERS, HEADS, KV_HEADS = 3, 6, 2


METHODS = ["streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2", "compresskv"]


def head_scores(layers: int = LAYERS, heads: int = HEADS, seed: int = 0) -> torch.Tensor:
    """Skewed scores, as real ones are: a few heads have most of it."""
    return torch.rand(layers, heads, generator=torch.Generator().manual_seed(seed)) ** 6


ROW = Result(
    id="a", prediction="Über 48213", answers=("48213",), score=100.0, scores={"contains": 100.0},
    prompt_tokens=900, new_tokens=7, kv_size=64,
    kept_tokens=5760, cache_bytes=1, full_cache_bytes=2,
    protocol="corrected", granularity="kv_head", compress_on="prompt",
    seconds={"prefill": 1.0, "compress": 0.1, "decode": 0.2}, run_key="cell-one",
    meta={"length": 1024},
)  # fmt: skip
