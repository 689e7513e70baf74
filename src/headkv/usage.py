"""What `--help` of a script prints: every key with its value and one line of explanation.

The lines are the docstrings of the classes that the keys are checked by; nothing is written twice.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headkv.calibration.settings import HeadSettings, ImportanceSettings, Masking
from headkv.config import compose, declared, load_group, names
from headkv.efficiency.settings import SHAPE, Plan
from headkv.evaluation.settings import Protocol, Settings
from headkv.models.spec import ModelSpec
from headkv.stream import settings as stream

_SCRIPTS: dict[str, tuple[type, ...]] = {
    "heads": (HeadSettings,),
    "importance": (ImportanceSettings,),
    "efficiency": (Settings, Plan),
    "stream": (Settings, stream.Plan),
}
"""The settings classes of scripts that are no benchmark."""
_GROUPS = ("model", "method", "scorer", "allocator", "protocol", "experiment")
_LONGEST = 110
_END = """\
Lists: kv_size=[64,128]. Parameters of a part: scorer=window scorer.window_size=16, and
`scorer=window --help` lists them. Hydra's flags: --cfg job (show all settings), -m (every
combination of a,b), --config-dir DIR (own yamls), --info, --hydra-help."""


def usage(command: str, script: str, overrides: Sequence[str]) -> str:
    """The help of a script, with the values that it would run with.

    Args:
        command: as it is called.
        script: the yaml of `conf/` that it composes.
        overrides: settings on the command line.

    Raises:
        UserError: settings that cannot be composed.
    """
    config = compose(script, list(overrides))
    about = explanations(script, config)
    sections = [f"usage: headkv {command} [KEY=VALUE ...]"]
    groups = [group for group in _GROUPS if group in about and names(group)]
    sections.append("\n".join(f"  {group}= {', '.join(names(group))}" for group in groups))
    for prefix in dict.fromkeys(key.rpartition(".")[0] for key in about):
        own = {key: text for key, text in about.items() if key.rpartition(".")[0] == prefix}
        shown = [_line(key, _value(config, key), text) for key, text in own.items()]
        sections.append("\n".join(shown))
    return "\n\n".join([*sections, _END])


def explanations(script: str, config: Mapping[str, Any]) -> dict[str, str]:
    """What every key of a script means; a key is a path such as `benchmark.lengths`.

    Args:
        script: the yaml of `conf/`.
        config: as it was composed.
    """
    top: dict[str, str] = {}
    for each in _SCRIPTS.get(script, (Settings,)):
        top |= _about(each)
    top |= {"kv_size": top.get("kv_sizes", ""), "method": top.get("methods", "")}
    top["settings"] = top.get("variants", "")
    top["experiment"] = "a yaml of conf/experiment, whose settings are taken over."
    keys = ["method" if key == "methods" else key for key in config]
    found = {key: top.get(key, "") for key in keys}
    inner: dict[str, Mapping[str, str]] = {"model": _about(ModelSpec), "protocol": _about(Protocol)}
    inner |= {"masking": _about(Masking)}
    inner["shape"] = dict.fromkeys(["name", *SHAPE], "of the model with random weights.")
    for section in ("benchmark", "tests", "scorer", "allocator"):
        inner[section] = _parameters(section, config.get(section))
    for section, texts in inner.items():
        for key in _keys(section, config.get(section), texts):
            found[f"{section}.{key}"] = texts.get(key, "")
    return found


def _keys(section: str, content: Any, texts: Mapping[str, str]) -> Iterable[str]:
    if section in ("scorer", "allocator"):
        return texts
    return [key for key in content if key != "_target_"] if isinstance(content, Mapping) else ()


def _parameters(section: str, content: Any) -> dict[str, str]:
    """What the class of a section, or of the one scorer or allocator that is chosen, says."""
    if section in ("scorer", "allocator"):
        name = content.get("name") if isinstance(content, Mapping) else content
        content = load_group(section, name) if isinstance(name, str) else None
    if not isinstance(content, Mapping):
        return {}
    found = declared.read(str(content.get("_target_")))
    return {} if found is None else {key: each.about for key, each in found.parameters.items()}


def _about(cls: type) -> dict[str, str]:
    return declared.of_class(cls).documented


def _value(config: Mapping[str, Any], key: str) -> str:
    """The value of a key as it is typed."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if key == "method":
        return f"[{','.join(config.get('methods') or ())}]"
    if isinstance(value, Mapping):
        return str(value.get("name", "..."))
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _line(key: str, value: str, text: str) -> str:
    text = re.sub(r"`|\bheadkv\.[\w.]+\b", "", text).replace("None", "null")
    if len(text) > _LONGEST:  # whole clauses only
        text = re.split(r"[;:,.(][^;:,.(]*$", text[:_LONGEST])[0] + " ..."
    given = f"{key}={value if len(value) <= 40 else value[:37] + '...'}"
    return f"  {given:<34} {text}".rstrip()
