"""Values checked against type annotations, strictly: nothing is converted, `no` is not True."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from headkv.errors import UserError

T = TypeVar("T")
STRICT = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""Of the classes that settings are checked by."""


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("odd widths")
    return value


Count = Annotated[int, Field(ge=1, le=2**40)]
"""A whole number of tokens, heads or examples, 1 or more; products of two still fit 64 bits."""
OddCount = Annotated[int, Field(ge=1, le=2**40), AfterValidator(_odd)]
"""An odd whole number, 1 or more: the width of something that has a middle."""


def check_types(what: str, target: Any, parameters: Mapping[str, Any]) -> None:
    """Checks values against the annotations of the parameters that they are for.

    Args:
        what: what is being built, for the message.
        target: class or function.
        parameters: values by name; lists stand for tuples.

    Raises:
        UserError: the first value of another type or out of its bounds.
    """
    check_values(what, _adapters(target), parameters)


def check_values(
    what: str, adapters: Mapping[str, TypeAdapter[Any]], values: Mapping[str, Any]
) -> None:
    """Checks values by their checkers, as `check_types`; a value without one passes.

    Args:
        what: what is being built, for the message.
        adapters: from `checkers`.
        values: by name; lists stand for tuples.

    Raises:
        UserError: the first value of another type or out of its bounds.
    """
    for key, value in values.items():
        if key not in adapters:
            continue
        adapter = adapters[key]
        try:
            adapter.validate_python(as_tuples(value), strict=True)
        except ValidationError:
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError as error:
                raise refusal(error, f"{what}: {key}", key) from None


@lru_cache(maxsize=256)
def _adapters(target: Any) -> dict[str, TypeAdapter[Any]]:
    """A checker for each annotated parameter of a class or function, made once."""
    source = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009
    try:
        hints = get_type_hints(source, include_extras=True)
    except NameError:  # an annotation that is imported for type checkers only
        return {}
    return checkers(hints)


def checkers(hints: Mapping[str, Any]) -> dict[str, TypeAdapter[Any]]:
    """A checker for each annotation, by name."""
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return {key: TypeAdapter(hint, config=config) for key, hint in hints.items()}


def as_tuples(value: Any) -> Any:
    """Lists, which is all a yaml can say, as the tuples that annotations ask for."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "dict_type": "{NAME: VALUE}",
    "too_short": "one or more",
    "tuple_type": "a list",
    "string_pattern_mismatch": "scorer.PARAMETER or allocator.PARAMETER",
}


def refusal(error: ValidationError, what: str, key: str, at: str | int | None = None) -> UserError:
    """What pydantic refused, in one line.

    Args:
        error: pydantic's.
        what: what was checked, for the message.
        key: the setting to change.
        at: only what was refused of this field; None: all that was.
    """
    found = error.errors(include_url=False, include_context=False)
    found = [each for each in found if at is None or each["loc"][0] == at]
    if any(each["type"] != "too_short" for each in found):  # of a list that has other faults
        found = [each for each in found if each["type"] != "too_short"]
    wanted = dict.fromkeys(_WORDS.get(each["type"], each["msg"]) for each in found)
    allowed = " or ".join(wanted).replace("Input should be ", "").replace("Value error, ", "")
    return UserError(f"{what}={found[0]['input']!r}", allowed=allowed, do=f"change {key}=")


def parsed(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """An instance of a settings class, types and bounds checked.

    Args:
        cls: a pydantic dataclass.
        values: by field.
        prefix: of the fields on the command line.

    Raises:
        UserError: the first value that cannot be used, or a key that there is not.
    """
    try:
        return cls(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise refused(error, prefix) from None


def refused(error: ValidationError, prefix: str = "") -> UserError:
    """The first setting that pydantic refused, in one line.

    Args:
        error: of a settings class.
        prefix: of its keys on the command line.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    key = prefix + {"kv_sizes": "kv_size", "variants": "settings"}.get(
        str(first["loc"][0]), str(first["loc"][0])
    )
    if first["type"] == "unexpected_keyword_argument":
        return UserError(
            f"unknown setting {key!r}", allowed="the keys that --cfg job lists", do=f"remove {key}="
        )
    if first["type"] in ("missing", "missing_argument"):
        return UserError(f"{key} is missing", allowed="a value for it", do=f"set {key}=")
    return refusal(error, key, key, first["loc"][0])


def listed(value: object) -> tuple[Any, ...]:
    """One value as a list of one; equal values once."""
    if value is None:
        return ()
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(each for i, each in enumerate(several) if each not in several[:i])
