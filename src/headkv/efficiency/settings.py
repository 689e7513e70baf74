"""What `conf/efficiency.yaml` asks to be measured, typed and bounded."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from headkv.evaluation.settings import STRICT, Count, Counts, Switch, refused


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

    lengths: Counts
    new_tokens: Counts
    warmup: Annotated[int, Field(ge=0)]
    repeats: Count
    dynamic_cache: Switch
    threads: Count | None
    random_weights: Switch
    force: Switch
    shape: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Plan":
        """Checks types and bounds.

        Args:
            config: the composed config; keys that are not of the plan are left alone.

        Raises:
            UserError: the first value that cannot be used.
        """
        try:
            return cls(**{key: config[key] for key in config if key in PLAN_KEYS})
        except ValidationError as error:
            raise refused(error) from None

    @property
    def steps(self) -> int:
        """One-token steps of a run, which follow the first token; one at least, to be timed."""
        return max(*self.new_tokens, 2) - 1

    @property
    def longest(self) -> int:
        """Most tokens of prompt and answer."""
        return max(self.lengths) + self.steps + 1


PLAN_KEYS = frozenset(field.name for field in fields(Plan))
