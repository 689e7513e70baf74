"""What `conf/model/*.yaml` says of a model, typed and checked; nothing is loaded here."""

import re
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from headkv.config import load_group, names
from headkv.config.typed import STRICT, as_tuples, parsed
from headkv.errors import UserError, choose
from headkv.records import text_config

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
SCORE_KINDS = [
    "retrieval",
    "retrieval_reasoning",
    "semantic",
    "cooperative",
    "duo",
    "kvzip_head",
]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""What a hub id looks like: owner/name. Here, as importing the hub's client takes a while."""
NAME = re.compile(r"[^\W_][\w.-]*")


def _known(kind: str) -> str:
    if kind not in SCORE_KINDS:
        raise ValueError(", ".join(SCORE_KINDS))
    return kind


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("letters, digits, . _ -")
    return name


# Room for LongBench's longest answer (512 tokens) and a chat template with a system message.
RESERVED_TOKENS = 692


Kind = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True, config=STRICT)
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

    name: Annotated[str, AfterValidator(_named)]
    path: str | None = None
    gguf_wheel: bool = False
    dtype: Dtype = "auto"
    max_prompt_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = None
    chat_template: bool = True
    head_scores: dict[Kind, str | None] = field(default_factory=lambda: dict.fromkeys(SCORE_KINDS))
    layer_importance: str | None = None
    teacher_forced: Annotated[tuple[Kind, ...], BeforeValidator(as_tuples)] = ()
    device_map: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) != self.gguf_wheel:
            raise UserError(
                f"model.path={self.path!r} cannot be used with gguf_wheel={self.gguf_wheel}",
                allowed="a folder or hub id; null always and only with gguf_wheel",
                do="change model.path=",
            )

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
    return parsed(ModelSpec, merged, "model.")


def _own_values(name: str) -> dict[str, Any]:
    if not isinstance(name, str):
        raise UserError(f"model={name!r}", allowed="a name, folder or hub id", do="change model=")
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
