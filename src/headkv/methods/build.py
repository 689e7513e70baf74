"""How a name becomes a method: yaml files of scorers and allocators, composed.

A method's yaml names a scorer and an allocator; either can be replaced by any other. The lists of
what exists are `conf/method`, `conf/scorer` and `conf/allocator`, and what plug-ins add to them.
Everything but the last step, `instantiate`, does without torch.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headkv.config import declared as sources
from headkv.config import instantiate, load_group, names, target_of
from headkv.config.declared import Declared
from headkv.errors import UserError, choose

if TYPE_CHECKING:
    from headkv.methods.method import Method
    from headkv.methods.part import Part

Given = str | Mapping[str, Any]
"""A part: its name, or a mapping with `name` and parameters."""
Resource = Callable[[str, str | None], Any]
"""Gives `head_scores` of a kind, or `layer_importance`, of the model at hand."""
Planned = tuple[Declared, dict[str, Any]]
"""What a part declares, and the content that it is built from."""
_OWN = ("scorer", "allocator", "entries", "granularity", "display")
_GROUPS = ("scorer", "allocator", "entries")


def build_method(
    name: str | None = None,
    kv_size: int | None = None,
    *,
    scorer: Given | None = None,
    allocator: Given | None = None,
    entries: Given | None = None,
    protocol: str | None = None,
    granularity: str | None = None,
    decode_kv_size: int | None = None,
    compress_every: int | None = None,
    bits: int = 16,
    offload: str | None = None,
    **parameters: Any,
) -> "Method":
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
        decode_kv_size: mean entries a stored head is cut to while an answer is decoded.
        compress_every: generated tokens between two such cuts.
        bits: of a number of the kept entries: 16 (the model's own type), 8, 4 or 2.
        offload: `layers` or `heads`: whose entries live on the host and are fetched ahead.
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
        decode_kv_size=decode_kv_size,
        compress_every=compress_every,
        bits=bits,
        offload=offload,
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
    decode_kv_size: int | None = None,
    compress_every: int | None = None,
    bits: int = 16,
    offload: str | None = None,
    resource: Resource | None = None,
    **parameters: Any,
) -> "Method":
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
        decode_kv_size: see `build_method`.
        compress_every: likewise.
        bits: likewise.
        offload: likewise.
        resource: asked for what a part reads from a file of the model and was not given.
        parameters: of whichever part takes them.

    Raises:
        UserError: see `build_method`.
    """
    from headkv.methods.method import Method

    planned = plan(
        name,
        settings,
        scorer=scorer,
        allocator=allocator,
        entries=entries,
        resource=resource,
        **parameters,
    )
    parts: dict[str, Any] = {group: _built(group, each) for group, each in planned.items()}
    label = name or "+".join(part.name for group, part in parts.items() if group != "entries")
    return Method(
        kv_size=kv_size,
        protocol=protocol or "corrected",
        granularity=granularity or settings.get("granularity"),
        name=label,
        decode_kv_size=decode_kv_size,
        compress_every=compress_every,
        bits=bits,
        offload=offload,
        **parts,
    )


def plan(
    name: str | None,
    settings: Mapping[str, Any],
    *,
    scorer: Given | None = None,
    allocator: Given | None = None,
    entries: Given | None = None,
    resource: Resource | None = None,
    **parameters: Any,
) -> dict[str, Planned]:
    """What a method is built from, its names and types checked; arguments as `compose`.

    Returns:
        Group -> what the part declares, and the content that it is built from; a `base` in it is
        such a pair as well.

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
    return {group: _planned(group, spec, given, resource) for group, spec in specs.items()}


def resources(settings: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """What a method yaml's parts read from files of the model: (`head_scores`, kind) and the like.

    Args:
        settings: content of a method yaml.
    """
    found: list[tuple[str, str | None]] = []
    for group, whole in _specs("method", settings, {}).items():
        for spec in _chain(whole):
            part = declared(group, spec)
            for what in part.constants.get("resources", ()):
                kind = spec.get("kind", part.default("kind")) if what == "head_scores" else None
                found.append((what, kind))
    return found


def _specs(
    title: str, settings: Mapping[str, Any], replaced: Mapping[str, Given | None]
) -> dict[str, dict[str, Any]]:
    """Of each part its name and parameters: what stands in its own yaml, then what was given."""
    specs = {}
    for group in _GROUPS:
        given = replaced.get(group)
        given = settings.get(group) if given is None else given
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
    own = {"name": given} if isinstance(given, str) else given
    if not isinstance(own, Mapping) or not {"name", "_target_"} & set(own):
        raise UserError(
            f"{title}'s {group} has no name",
            allowed=", ".join(names(group)),
            do=f"write {group}: {{name: ...}}",
        )
    if "name" in own:
        choose(group, str(own["name"]), names(group))
        own = {**load_group(group, str(own["name"])), **own}
    if isinstance(own.get("base"), str | Mapping):
        own = {**own, "base": _spec(title, group, own["base"])}
    return dict(own)


def _chain(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A part, the one that it works over, and so on."""
    base = spec.get("base")
    return [spec, *_chain(base)] if isinstance(base, Mapping) else [spec]


def _taken(group: str, spec: Mapping[str, Any]) -> set[str]:
    """The parameters of a part and of those that it works over."""
    return {key for each in _chain(spec) for key in declared(group, each).parameters}


def _planned(
    group: str, spec: Mapping[str, Any], given: Mapping[str, Any], resource: Resource | None
) -> Planned:
    """What a part is built from, and its base if it works over one.

    Args:
        group: of its yaml.
        spec: its name and parameters.
        given: parameters of any part, which take precedence.
        resource: see `compose`.
    """
    part = declared(group, spec)
    own = {key: value for key, value in spec.items() if key not in ("name", "_target_")}
    own |= {key: value for key, value in given.items() if key in part.parameters}
    for what in part.constants.get("resources", ()):
        if resource is not None and own.get(what) is None:
            kind = own.get("kind", part.default("kind"))
            own[what] = resource(what, kind if what == "head_scores" else None)
    part.check(f"{group} {part.constants.get('name')}", own)
    if isinstance(spec.get("base"), Mapping):
        own["base"] = _planned(group, spec["base"], given, resource)
    return part, {"_target_": spec["_target_"], **own}


def _built(group: str, planned: Planned) -> Any:
    """A part, built over its base if it has one."""
    part, content = planned
    if isinstance(content.get("base"), tuple):
        content = {**content, "base": _built(group, content["base"])}
    return instantiate(f"{group} {part.constants.get('name')}", content, _base(group))


def declared(group: str, spec: Mapping[str, Any]) -> Declared:
    """What a part declares; its class is imported only if its source does not say it.

    Args:
        group: of its yaml.
        spec: content of its yaml.
    """
    read = sources.read(str(spec.get("_target_")))
    if read is not None:
        return read
    what = f"{group} {spec.get('name', '')}".strip()
    return sources.of_class(target_of(what, spec, _base(group)))


def _base(group: str) -> "type[Part]":
    """What the classes of a group derive from."""
    from headkv.methods.allocators.base import Allocator
    from headkv.methods.entries.base import Entries
    from headkv.methods.scorers.base import Scorer

    bases: Mapping[str, type[Part]] = {
        "scorer": Scorer,
        "allocator": Allocator,
        "entries": Entries,
    }
    return bases[group]
