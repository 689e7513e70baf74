"""What `conf/efficiency.yaml` asks to be measured, typed and bounded."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from headkv.config.typed import STRICT, listed, parsed
from headkv.errors import UserError, choose
from headkv.evaluation.early import check_methods, check_model
from headkv.evaluation.settings import Settings, Switch
from headkv.models.spec import NAME

Lengths = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**24)], ...], Field(min_length=1), BeforeValidator(listed)
]
SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
"""Fields of transformers' `LlamaConfig` that `shape=` may set."""


def _shape(value: object) -> object:
    """The shape; its errors name the key inside."""
    for key, size in value.items() if isinstance(value, Mapping) else ():
        if key == "name":
            if not NAME.fullmatch(str(size)):
                raise UserError(f"shape.name={size!r}", allowed="a name", do="change shape.name=")
            continue
        choose("key of shape", str(key), SHAPE)
        if type(size) is not int or not 1 <= size < 2**31:
            raise UserError(
                f"shape.{key}={size!r}", allowed="a whole number, 1 or more", do=f"set shape.{key}="
            )
    return value


@dataclass(frozen=True, config=STRICT)
class Plan:
    """What to measure, and how often.

    Attributes:
        lengths: tokens of the prompts.
        new_tokens: answer lengths in tokens at which total seconds are reported; all are read off
            one run.
        warmup: runs before those that count, besides the one that measures memory.
        repeats: runs that count.
        dynamic_cache: also measure transformers' own cache.
        threads: of the CPU; None: as many as torch takes.
        random_weights: a model of a given shape in place of a real one.
        force: measure again what is there already.
        shape: fields of the model with random weights, and its `name`.
    """

    lengths: Lengths
    new_tokens: Lengths
    warmup: Annotated[int, Field(ge=0, le=10_000)]
    repeats: Annotated[int, Field(ge=1, le=10_000)]
    dynamic_cache: Switch
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    random_weights: Switch
    force: Switch
    shape: Annotated[Mapping[str, Any], BeforeValidator(_shape)] = Field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Plan":
        """Checks types and bounds.

        Args:
            config: the composed config; keys that are not of the plan are left alone.

        Raises:
            UserError: the first value that cannot be used.
        """
        return parsed(cls, {key: config[key] for key in config if key in PLAN_KEYS})

    @property
    def steps(self) -> int:
        """One-token steps of a run, which follow the first token; one at least, to be timed."""
        return max(*self.new_tokens, 2) - 1

    @property
    def longest(self) -> int:
        """Most tokens of prompt and answer."""
        return max(self.lengths) + self.steps + 1


PLAN_KEYS = frozenset(field.name for field in fields(Plan))


def check_efficiency(config: Mapping[str, Any]) -> tuple[Settings, Plan]:
    """Checks the config of a measurement, before torch is imported.

    Args:
        config: the composed config.

    Raises:
        UserError: anything that cannot be used.
    """
    settings, plan = Settings.parse(config, PLAN_KEYS), Plan.parse(config)
    if isinstance(settings.beta, str):
        raise UserError(
            f"beta={settings.beta} in a measurement of seconds and bytes",
            allowed="a number, or null",
            do="set beta=1.2",
        )
    check_methods(settings, None if plan.random_weights else check_model(config))
    return settings, plan
