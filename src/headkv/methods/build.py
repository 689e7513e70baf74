"""How a name becomes a method: yaml files of scorers and allocators, composed.

A method's yaml names a scorer and an allocator; either can be replaced by any other. The lists of
what exists are `conf/method`, `conf/scorer` and `conf/allocator`, and what plug-ins add to them.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from headkv.config import instantiate, load_group, names, target_of
from headkv.errors import UserError, choose
from headkv.methods.allocators.base import Allocator
from headkv.methods.entries.base import Entries
from headkv.methods.method import Method
from headkv.methods.part import Part
from headkv.methods.scorers.base import Scorer

Given = str | Mapping[str, Any]
"""A part: its name, or a mapping with `name` and parameters."""
Resource = Callable[[str, str | None], Tensor | str]
"""Gives `head_scores` of a kind, or `layer_importance`, of the model at hand."""
_OWN = ("scorer", "allocator", "entries", "granularity", "display")
_BASES: Mapping[str, type[Part]] = {
    "scorer": Scorer,
    "allocator": Allocator,
    "entries": Entries,
}


def build_method(
    name: str | None = None,
    kv_size: int | None = None,
    *,
    scorer: Given | None = None,
    allocator: Given | None = None,
    entries: Given | None = None,
    protocol: str | None = None,
    granularity: str | None = None,
    **parameters: Any,
) -> Method:
    """A method by name, or composed of parts.

    Args:
        name: of `conf/method`, e.g. `headkv_r2`; None: `scorer` and `allocator` say all.
        kv_size: mean tokens a stored head keeps, window included; FullKV ignores it.
        scorer: replaces the method's own: a name of `conf/scorer`, or a mapping with `name` and
            parameters.
        allocator: likewise, of `conf/allocator`.
        entries: likewise, of `conf/entries`.
        protocol: `corrected` (default) or `paper`.
        granularity: `kv_head` or `query_head`; None: what the yaml or the protocol says.
        parameters: of whichever part takes them, e.g. `beta`, `window_size`, `head_scores`.

    Raises:
        UserError: an unknown name or parameter, a value out of bounds, or a part is missing.

    Example:
        >>> build_method("snapkv", kv_size=128)
        >>> build_method(scorer="key_norm", allocator="uniform", kv_size=128)
    """
    settings: Mapping[str, Any] = {}
    if name is not None:
        choose("method", name, names("method"))
        settings = load_group("method", name)
    return compose(
        name,
        settings,
        kv_size=kv_size,
        scorer=scorer,
        allocator=allocator,
        entries=entries,
        protocol=protocol,
        granularity=granularity,
        **parameters,
    )


def compose(
    name: str | None,
    settings: Mapping[str, Any],
    *,
    kv_size: int | None,
    scorer: Given | None = None,
    allocator: Given | None = None,
    entries: Given | None = None,
    protocol: str | None = None,
    granularity: str | None = None,
    resource: Resource | None = None,
    **parameters: Any,
) -> Method:
    """A method from the content of a method yaml; other arguments as `build_method`.

    Args:
        name: the method's.
        settings: content of its yaml.
        kv_size: mean tokens a stored head keeps.
        scorer: replaces the yaml's.
        allocator: replaces the yaml's.
        entries: replaces the yaml's.
        protocol: `corrected` (default) or `paper`.
        granularity: overrides the yaml's.
        resource: asked for what a part reads from a file of the model and was not given.
        parameters: of whichever part takes them.

    Raises:
        UserError: see `build_method`.
    """
    title = name or "the method"
    for key in settings:
        if key not in _OWN:
            raise UserError(
                f"{title} has an unknown key {key!r}",
                allowed=", ".join(_OWN),
                do=f"move it into the scorer or allocator of conf/method/{title}.yaml",
            )
    specs = _specs(title, settings, {"scorer": scorer, "allocator": allocator, "entries": entries})
    known = {key for group, spec in specs.items() for key in _taken(group, spec)}
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in given:
        if key not in known:
            raise UserError(
                f"{title} takes no parameter {key!r}",
                allowed=", ".join(sorted(known)),
                do=f"remove {key}=",
            )
    parts = {group: _make(group, spec, given, resource) for group, spec in specs.items()}
    label = name or "+".join(part.name for group, part in parts.items() if group != "entries")
    return Method(
        kv_size=kv_size,
        protocol=protocol or "corrected",
        granularity=granularity or settings.get("granularity"),
        name=label,
        **parts,
    )


def resources(settings: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """What a method yaml's parts read from files of the model: (`head_scores`, kind) and the like.

    Args:
        settings: content of a method yaml.
    """
    found: list[tuple[str, str | None]] = []
    for group, whole in _specs("method", settings, {}).items():
        for spec in _chain(whole):
            target = _class_of(group, spec)
            for what in target.resources:
                kind = spec.get("kind", _default(target, "kind")) if what == "head_scores" else None
                found.append((what, kind))
    return found


def _specs(
    title: str, settings: Mapping[str, Any], replaced: Mapping[str, Given | None]
) -> dict[str, dict[str, Any]]:
    """Of each part its name and parameters: what stands in its own yaml, then what was given."""
    specs = {}
    for group in _BASES:
        given = replaced.get(group) or settings.get(group)
        if given is None and group == "entries":
            continue
        if given is None:
            raise UserError(
                f"{title} without {group}", allowed=", ".join(names(group)), do=f"set {group}="
            )
        specs[group] = _spec(title, group, given)
    return specs


def _spec(title: str, group: str, given: Given) -> dict[str, Any]:
    """A part's name and parameters: those of its yaml, then those given; its base likewise."""
    own: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in own and "_target_" not in own:
        raise UserError(
            f"{title}'s {group} has no name",
            allowed=", ".join(names(group)),
            do=f"write {group}: {{name: ...}}",
        )
    if "name" in own:
        choose(group, str(own["name"]), names(group))
        own = {**load_group(group, str(own["name"])), **own}
    if isinstance(own.get("base"), str | Mapping):
        own["base"] = _spec(title, group, own["base"])
    return own


def _chain(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A part, the one that it works over, and so on."""
    base = spec.get("base")
    return [spec, *_chain(base)] if isinstance(base, Mapping) else [spec]


def _taken(group: str, spec: Mapping[str, Any]) -> set[str]:
    """The parameters of a part and of those that it works over."""
    classes = [_class_of(group, each) for each in _chain(spec)]
    return {key for each in classes for key in inspect.signature(each).parameters}


def _make(
    group: str, spec: Mapping[str, Any], given: Mapping[str, Any], resource: Resource | None
) -> Any:
    """A part, made over its base if it has one.

    Args:
        group: of its yaml.
        spec: its name and parameters.
        given: parameters of any part, which take precedence.
        resource: see `compose`.
    """
    target = _class_of(group, spec)
    takes = inspect.signature(target).parameters
    own = {key: value for key, value in given.items() if key in takes}
    for what in target.resources:
        if resource is not None and own.get(what, spec.get(what)) is None:
            kind = spec.get("kind", _default(target, "kind"))
            own[what] = resource(what, kind if what == "head_scores" else None)
    if isinstance(spec.get("base"), Mapping):
        own["base"] = _make(group, spec["base"], given, resource)
    return instantiate(f"{group} {target.name}", _without_name(spec), _BASES[group], **own)


def _class_of(group: str, spec: Mapping[str, Any]) -> Any:
    return target_of(f"{group} {spec.get('name', '')}".strip(), spec, _BASES[group])


def _default(target: Any, parameter: str) -> Any:
    return getattr(inspect.signature(target).parameters.get(parameter), "default", None)


def _without_name(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "name"}
