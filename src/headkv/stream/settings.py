"""What `run_stream.py` takes, checked before torch is imported."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from headkv.config.typed import STRICT, Count, refused
from headkv.errors import UserError
from headkv.evaluation.early import check_methods, check_model
from headkv.evaluation.settings import Settings
from headkv.methods.holding import COMPRESS_EVERY
from headkv.models.spec import ModelSpec


@dataclass(frozen=True, config=STRICT)
class Plan:
    """What to read.

    Attributes:
        tokens: of a text.
        texts: pieces of the essays, evenly spaced.
    """

    tokens: Count
    texts: Count


PLAN_KEYS = frozenset(field.name for field in fields(Plan))


def check_stream(config: Mapping[str, Any]) -> tuple[Settings, Plan, ModelSpec]:
    """Checks the config of a reading.

    Args:
        config: the composed config.

    Raises:
        UserError: anything that cannot be used.
    """
    settings = Settings.parse(config, PLAN_KEYS)
    try:
        plan = Plan(**{key: config[key] for key in PLAN_KEYS})
    except ValidationError as error:
        raise refused(error) from None
    spec = check_model(config)
    for sized in by_size(settings):
        check_methods(sized, spec)
    check_length(settings, plan, spec.max_prompt_tokens)
    return settings, plan, spec


def by_size(settings: Settings) -> Iterator[Settings]:
    """The settings of each size: what the prefill is cut to, and the text behind it."""
    for size in settings.kv_sizes:
        yield replace(settings, kv_sizes=(size,), decode_kv_size=size)


def check_length(settings: Settings, plan: Plan, limit: int | None) -> None:
    """Raises `UserError` unless texts are longer than what is held, and within the context.

    Args:
        settings: of the reading.
        plan: likewise.
        limit: most tokens of a prompt; None: not known yet.
    """
    held = max(settings.kv_sizes) + (settings.compress_every or COMPRESS_EVERY)
    if plan.tokens <= held or (limit is not None and plan.tokens > limit):
        raise UserError(
            f"tokens={plan.tokens}",
            allowed=f"{held + 1} (more than is ever held) to {limit or 'the model'} (its context)",
            do="set tokens=",
        )
