"""Reading `conf/`: one loader for Hydra's command line and for Python.

The list of what exists is the list of yaml files, here and in the `conf/` of installed plug-ins.
"""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.config.places import CONF
from headkv.config.plugins import GROUPS, folders
from headkv.config.plugins import names as plugin_names
from headkv.errors import UserError, choose

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.default_element import ResultDefault
    from omegaconf import DictConfig


def names(group: str) -> list[str]:
    """Names of a config group, e.g. all methods; those of plug-ins included."""
    own = {path.stem for path in (CONF / group).glob("*.yaml")}
    return sorted(own | set(plugin_names(group)))


def load_group(group: str, name: str) -> dict[str, Any]:
    """The content of `conf/<group>/<name>.yaml` as Hydra composes it, `defaults:` resolved.

    An interpolation such as `${task}` that only a whole config can resolve is left as it stands.

    Raises:
        UserError: unknown name, a file Hydra cannot compose, or a method's without its first line.
    """
    choose(group, name, names(group))
    places = (CONF, *folders())
    files = [path for folder in places for path in sorted((folder / group).glob("*.yaml"))]
    stamp = tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return copy.deepcopy(_load_group(group, name, places, stamp))


@lru_cache(maxsize=256)
def _load_group(group: str, name: str, places: object, stamp: object) -> dict[str, Any]:
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    where, path = f"conf/{group}/{name}.yaml", f"{group}/{name}"
    loader = config_loader()
    try:  # as `load_configuration` does, without the dozen files of Hydra's own settings
        _, files = loader._parse_overrides_and_create_caching_repo(path, [])
        chosen = create_defaults_list(files, path, [], prepend_hydra=False, skip_missing=False)
        config = loader._compose_config_from_defaults_list(chosen.defaults, files)
    except (HydraException, OmegaConfBaseException) as problem:
        raise not_composed(where, problem) from problem
    package = f"methods.{name}" if group == "method" else group.replace("/", ".")
    if group == "method":
        _check_methods(list(config.get("methods") or {}), [name])
    content = OmegaConf.select(config, package)
    if content is None:
        raise UserError(
            f"{where} fills {', '.join(str(key) for key in config if key != 'hydra') or 'nothing'}",
            allowed=f"a yaml that fills {package}",
            do="mend its first line, `# @package ...`, and its content",
        )
    return _resolved(content)


def _resolved(content: "DictConfig") -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError

    try:
        whole: dict[str, Any] = OmegaConf.to_container(content, resolve=True)  # type: ignore
        return whole
    except InterpolationResolutionError:
        found: dict[str, Any] = OmegaConf.to_container(content, resolve=False)  # type: ignore
    for key in found:
        try:
            value = content[key]
        except InterpolationResolutionError:
            continue  # of the config around it
        found[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return found


def compose(script: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a script as its command line composes it, in plain containers.

    Args:
        script: a yaml of `conf/`, such as `needle`.
        overrides: as on the command line, such as `kv_size=[64,128]`.

    Raises:
        UserError: Hydra cannot compose it, or the file of a chosen method lacks its first line.
    """
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    loader = config_loader()
    try:  # as `load_configuration` does, but every yaml is read once, for `_plain` too
        given, files = loader._parse_overrides_and_create_caching_repo(script, list(overrides))
        loader.validate_sweep_overrides_legal(given, RunMode.RUN, from_shell=True)
        chosen = create_defaults_list(files, script, given, prepend_hydra=True, skip_missing=False)
        config = loader._compose_config_from_defaults_list(chosen.defaults, files)
        OmegaConf.set_struct(config, True)
        loader._apply_overrides_to_config(chosen.config_overrides, config)
        return _plain(config, chosen.defaults, overrides)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as problem:
        raise not_composed(script, problem) from problem


def plain(config: "DictConfig", script: str, overrides: Sequence[str]) -> dict[str, Any]:
    """A composed config as plain containers, its chosen parts by name.

    Hydra puts the content of a chosen `scorer=` or `allocator=` where the choice stood; what is
    wanted is the name, with the parameters that the command line changed.

    Args:
        config: as Hydra composed it.
        script: the yaml of `conf/` that it was composed from.
        overrides: of the command line, without those of Hydra itself.

    Raises:
        UserError: the file of a chosen method lacks its first line or names another method there.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    hydra = GlobalHydra.instance()  # knows of --config-dir
    loader = hydra.config_loader() if hydra.is_initialized() else config_loader()
    entries = loader.compute_defaults_list(script, list(overrides), RunMode.RUN).defaults
    return _plain(config, entries, overrides)


def _plain(
    config: "DictConfig", entries: Sequence["ResultDefault"], overrides: Sequence[str]
) -> dict[str, Any]:
    from omegaconf import OmegaConf

    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    found: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore
    chosen: dict[str, list[str]] = {}
    for entry in entries:
        group, _, name = str(entry.config_path or "").rpartition("/")
        if group in (*GROUPS, "entries") and not str(entry.parent).startswith(f"{group}/"):
            chosen.setdefault(group, []).append(name)
    if "method" in chosen:
        _check_methods(list(found.get("methods") or {}), chosen["method"])
    for part in ("scorer", "allocator", "entries"):
        if picked := chosen.get(part):
            found[part] = _picked(part, picked, found.get(part), overrides)
    return found


def _picked(part: str, names: list[str], content: Any, overrides: Sequence[str]) -> Any:
    """The chosen names of a part; one name together with the parameters that were changed."""
    changed = [each.split("=")[0].lstrip("+") for each in overrides]
    changed = [each.partition(".")[2] for each in changed if each.startswith(f"{part}.")]
    if not changed:
        return names[0] if len(names) == 1 else names
    if len(names) > 1:
        raise UserError(
            f"{part}.{changed[0]}= with several of {part}=",
            allowed=f"parameters of one {part}",
            do=f"leave it out, or choose one {part}=",
        )
    return {"name": names[0], **{key: content[key] for key in (e.split(".")[0] for e in changed)}}


def _check_methods(filled: list[str], chosen: list[str]) -> None:
    """Raises `UserError` where the files of the chosen methods do not fill just their own entry."""
    for name in chosen:
        if name not in filled:
            raise UserError(
                f"conf/method/{name}.yaml is not filed under its own name",
                allowed=f"`# @package methods.{name}` as its first line",
                do="write that line",
            )
    for name in filled:
        if name not in chosen:
            raise UserError(
                f"a yaml of {', '.join(chosen)} also fills methods.{name}",
                allowed="`- NAME@_here_` in its defaults list",
                do=f"write `- {name}@_here_`",
            )


def config_loader(*further: Path) -> "ConfigLoaderImpl":
    """Hydra's own loader over our folder and those of plug-ins, without Hydra's global state.

    Args:
        further: folders looked into behind these.
    """
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins

    Plugins.instance()  # launchers add their configs to Hydra's store
    version.setbase("1.3")
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("main", str(CONF))
    for folder in folders():
        path.append("headkv plug-in", str(folder))
    for folder in further:
        path.append("command-line", f"file://{folder.resolve()}")
    path.append("schema", "structured://")
    return ConfigLoaderImpl(path)


def not_composed(what: str, problem: Exception) -> UserError:
    """Hydra's refusal of a config, in one line."""
    reason = " ".join(str(problem).split())
    what = str(getattr(problem, "override", None) or what)  # where it is one word of the line
    return UserError(
        f"{what}: {reason}", allowed="the keys that --cfg job lists", do="change that setting"
    )
