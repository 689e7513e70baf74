"""What `conf/efficiency.yaml` asks to be measured, typed and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headkv.errors import UserError


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Attributes:
        lengths: tokens of the prompts.
        new_tokens: answer lengths to give the total time of; one run serves all.
        warmup: runs before those that count, besides the one that measures memory.
        repeats: runs that count.
        dynamic_cache: also measure transformers' own cache.
        threads: of the CPU; None: as many as torch takes.
        random_weights: a model of a given shape in place of a real one.
        force: measure again what is there already.
    """

    lengths: tuple[int, ...]
    new_tokens: tuple[int, ...]
    warmup: int
    repeats: int
    dynamic_cache: bool
    threads: int | None
    random_weights: bool
    force: bool

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "Plan":
        """Checks types and bounds.

        Raises:
            UserError: the first value that cannot be used.
        """
        unused: dict[str, Any] = {
            "task": None,
            "limit": None,
            "batch_size": None,
            "compress_on": "prompt",
        }
        unused |= {"cells_per_batch": None, "shard": None, "dry_run": False}
        if isinstance(config["beta"], str):  # a beta chosen on another benchmark's answers
            unused["beta"] = None
        for key, default in unused.items():
            if config[key] != default:
                raise UserError(
                    f"{key}={config[key]} on the efficiency experiment, which has no use for it",
                    allowed="null" if default is None else default,
                    do=f"remove {key}=",
                )
        return cls(
            lengths=_numbers(config, "lengths", 1),
            new_tokens=_numbers(config, "new_tokens", 1),
            warmup=_number(config, "warmup", 0),
            repeats=_number(config, "repeats", 1),
            dynamic_cache=_switch(config, "dynamic_cache"),
            threads=None if config["threads"] is None else _number(config, "threads", 1),
            random_weights=_switch(config, "random_weights"),
            force=_switch(config, "force"),
        )

    @property
    def steps(self) -> int:
        """One-token steps of a run, which follow the first token; one at least, to be timed."""
        return max(*self.new_tokens, 2) - 1

    @property
    def longest(self) -> int:
        """Most tokens of prompt and answer."""
        return max(self.lengths) + self.steps + 1


def _numbers(config: Mapping[str, Any], key: str, least: int) -> tuple[int, ...]:
    given = config[key] if isinstance(config[key], list) else [config[key]]
    if not given:
        raise UserError(f"{key} is empty", allowed="one or more", do=f"set {key}=")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"{key}={value!r}", allowed=f"whole numbers from {least}", do=f"change {key}="
            )
    return tuple(dict.fromkeys(given))


def _number(config: Mapping[str, Any], key: str, least: int) -> int:
    found = _numbers(config, key, least)
    if len(found) > 1:
        raise UserError(f"{key}={list(found)}", allowed="one whole number", do=f"change {key}=")
    return found[0]


def _switch(config: Mapping[str, Any], key: str) -> bool:
    if not isinstance(config[key], bool):
        raise UserError(f"{key}={config[key]!r}", allowed="true, false", do=f"change {key}=")
    return bool(config[key])
