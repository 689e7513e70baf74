"""What `conf/model/*.yaml` says of a model, typed and checked; nothing is loaded here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from headkv.config import load_group, names
from headkv.downloads.hub import HUB_ID
from headkv.errors import UserError, choose
from headkv.records import text_config

DTYPES = ["auto", "float32", "bfloat16", "float16"]
SCORE_KINDS = [
    "retrieval",
    "retrieval_reasoning",
    "semantic",
    "cooperative",
    "duo",
    "kvzip_head",
]
NAME = re.compile(r"[^\W_][\w.-]*")
# Room for LongBench's longest answer (512 tokens) and a chat template with a system message.
RESERVED_TOKENS = 692


@dataclass(frozen=True)
class ModelSpec:
    """One model, as a yaml of `conf/model` describes it.

    Attributes:
        name: names the folder of its results.
        path: folder or hub id; None for the model that comes out of a wheel.
        gguf_wheel: whether it is the embedded SmolLM2, converted from a wheel's GGUF.
        dtype: auto, float32, bfloat16 or float16; auto is bfloat16 on an accelerator, float32 on
            the CPU.
        max_prompt_tokens: prompts are cut in the middle to this many tokens, before the chat
            template; None: what `prompt_limit` works out from the model's own context length.
        chat_template: whether to apply the tokenizer's chat template where a benchmark wants one.
        head_scores: kind -> score file, relative to the repository; None where there is none.
        layer_importance: file of CompressKV's layer importance, likewise; None: none measured.
        teacher_forced: kinds of head scores that need the right answer fed to the model, because it
            is too small to find it.
        device_map: given to transformers as it is, e.g. `auto` to spread over several GPUs.
    """

    name: str
    path: str | None = None
    gguf_wheel: bool = False
    dtype: str = "auto"
    max_prompt_tokens: int | None = None
    chat_template: bool = True
    head_scores: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(SCORE_KINDS))
    layer_importance: str | None = None
    teacher_forced: tuple[str, ...] = ()
    device_map: str | None = None

    def __post_init__(self) -> None:
        choose("model.dtype", str(self.dtype), DTYPES)
        path, limit, scores = self.path, self.max_prompt_tokens, self.head_scores
        located = path is None if self.gguf_wheel is True else isinstance(path, str)
        bounded = limit is None or (type(limit) is int and 16 <= limit <= 10_000_000)
        filed = isinstance(scores, dict) and all(
            kind in SCORE_KINDS and isinstance(file, str | None) for kind, file in scores.items()
        )
        named = isinstance(self.name, str) and NAME.fullmatch(self.name)
        _check("name", self.name, named, "letters, digits, . _ -")
        _check("path", path, located, "a folder or hub id; null always and only with gguf_wheel")
        _check("max_prompt_tokens", limit, bounded, "an integer from 16 to 10000000, or null")
        _check("head_scores", scores, filed, f"a file or null for each of {SCORE_KINDS}")
        importance = self.layer_importance
        _check("layer_importance", importance, isinstance(importance, str | None), "a file or null")
        kinds = self.teacher_forced
        forced = isinstance(kinds, list | tuple) and all(kind in SCORE_KINDS for kind in kinds)
        _check("teacher_forced", kinds, forced, f"a list of some of {SCORE_KINDS}")
        object.__setattr__(self, "teacher_forced", tuple(kinds))
        placed = isinstance(self.device_map, str | None)
        _check("device_map", self.device_map, placed, "auto or another strategy, or null")
        for key in ("chat_template", "gguf_wheel"):
            value = getattr(self, key)
            _check(key, value, isinstance(value, bool), "true or false")

    def prompt_limit(self, config: Any) -> int:
        """Most prompt tokens before the template: the yaml's, else from the context length."""
        if self.max_prompt_tokens is not None:
            return self.max_prompt_tokens
        context = getattr(text_config(config), "max_position_embeddings", None)
        if type(context) is not int or context < 16:
            raise UserError(
                f"max_position_embeddings={str(context)[:40]} in the model's config.json",
                allowed="its context length, a whole number of tokens",
                do="mend it, or set model.max_prompt_tokens=",
            )
        return max(context - RESERVED_TOKENS, context // 2)


def check_context(config: Any, tokens: int, what: str, do: str) -> None:
    """Refuses texts longer than a model's context, in which nothing that is measured means much.

    Args:
        config: the model's.
        tokens: of the longest text, its answer included.
        what: what would be so long, for the message.
        do: what to change.

    Raises:
        UserError: the context is shorter.
    """
    context = getattr(text_config(config), "max_position_embeddings", None)
    if isinstance(context, int) and tokens > context:
        raise UserError(
            f"{what} of {tokens} tokens on a model whose context is {context}",
            allowed=f"{context} tokens, question and answer included",
            do=do,
        )


def load_spec(name: str, overrides: Mapping[str, Any] | None = None) -> ModelSpec:
    """Returns the model called `name` (yaml, folder or hub id) with single values replaced.

    A `path` given for the embedded model starts a new spec: its name, head scores and prompt limit
    are not inherited. For any other model, `path` says where it lies.

    Args:
        name: of `conf/model`, an existing folder or a hub id.
        overrides: plain values by key; may repeat the whole yaml, as a composed config does.

    Raises:
        UserError: unknown name or key, or a value out of bounds.
    """
    own = _own_values(name)
    given = dict(overrides or {})
    for key in given:
        choose("key of model", key, [each.name for each in fields(ModelSpec)])
    if own.get("gguf_wheel") and given.get("path") is not None:
        given = {key: value for key, value in given.items() if own.get(key) != value}
        own = _at(str(given["path"]))
    merged = {**own, **given}
    if isinstance(scores := merged.get("head_scores", {}), dict):
        merged["head_scores"] = {**dict.fromkeys(SCORE_KINDS), **scores}
    return ModelSpec(**merged)


def _own_values(name: str) -> dict[str, Any]:
    known = names("model")
    if name in known:
        return load_group("model", name)
    if Path(name).expanduser().is_dir() or HUB_ID.fullmatch(name):
        return _at(name)
    raise UserError(
        f"unknown model {name!r}",
        allowed=", ".join([*known, "an existing folder", "a hub id like org/name"]),
        do="set model= to a name, or model.path= to a folder or hub id",
    )


def _at(path: str) -> dict[str, Any]:
    folder = Path(path).expanduser().resolve().name
    return {"name": re.sub(r"^\W+|[^\w.-]+", "_", folder).lstrip("_") or "model", "path": path}


def _check(key: str, value: object, good: object, allowed: str) -> None:
    if not good:
        raise UserError(
            f"model.{key}={value!r} cannot be used", allowed=allowed, do=f"change model.{key}="
        )
