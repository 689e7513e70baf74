"""What other installed packages add: methods, scorers, allocators and benchmarks.

An entry point of the group `headkv.methods` (or `.scorers`, `.allocators`, `.benchmarks`) has the
name of what it adds, and names a package with a folder `conf/` laid out as ours, such as
`conf/method/NAME.yaml`. The `_target_` of these yamls may name classes of the same package.
"""

import re
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from headkv.errors import UserError

_TARGET = re.compile(r"""(?:^|[{,])\s*_target_:\s*["']?([^\W\d]\w*)\.""", re.MULTILINE)
_TRUSTED: set[str] = set()
GROUPS = ("method", "scorer", "allocator", "benchmark")


@lru_cache
def _entry_points() -> dict[str, dict[str, EntryPoint]]:
    """Config group -> name -> entry point."""
    return {
        group: {point.name: point for point in entry_points(group=f"headkv.{group}s")}
        for group in GROUPS
    }


def names(group: str) -> list[str]:
    """Names that plug-ins add to a config group."""
    return sorted(_entry_points().get(group, ()))


def packages() -> list[str]:
    """Top-level packages of the plug-ins, whose classes a `_target_` may name."""
    points = [point for each in _entry_points().values() for point in each.values()]
    return sorted({point.module.partition(".")[0] for point in points} | _TRUSTED)


def trust(folder: Path) -> None:
    """Lets the yamls of a folder name their own packages: one that the user gave on a command line.

    To import a package runs it, so none of Python's own is ever looked into. What is found must
    still be a class of the wanted kind (`headkv.config.target_of`).

    Args:
        folder: laid out as `conf/`, such as what `--config-dir` says.
    """
    for path in folder.glob("*/*.yaml"):
        named = _TARGET.findall(path.read_text(encoding="utf-8", errors="replace"))
        _TRUSTED.update(set(named) - sys.stdlib_module_names)


def folders() -> list[Path]:
    """The `conf/` folders of the plug-ins.

    Raises:
        UserError: the package that an entry point names has no such folder.
    """
    found: dict[Path, None] = {}
    for points in _entry_points().values():
        for point in points.values():
            spec = find_spec(point.module)
            places = list(spec.submodule_search_locations or ()) if spec is not None else []
            folder = next((Path(each) / "conf" for each in places), None)
            if folder is None or not folder.is_dir():
                raise UserError(
                    f"the plug-in {point.name} ({point.group}) has no conf folder",
                    allowed=f"a package {point.module} with a folder conf/ in it",
                    do="mend or uninstall the plug-in",
                )
            found[folder] = None
    return list(found)
