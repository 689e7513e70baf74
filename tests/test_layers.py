"""The house of docs/floors.yaml: imports go down only, and what never imports what."""

import ast
import graphlib
import re
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = runpy.run_path(str(ROOT / "docs" / "draw_floors.py"))
MODULES: dict[str, Path] = HOUSE["modules"]()
FLOOR = {name: depth for depth, storey in enumerate(HOUSE["floors"]()) for name in storey}
NEVER = [
    ("methods", "transformers"),
    ("kernels", "transformers"),
    ("metrics", "torch"),
    ("metrics", "transformers"),
    ("report", "torch"),
    ("report", "transformers"),
    ("results", "torch"),
    ("results", "transformers"),
    ("storage", "transformers"),
    ("config", "torch"),
    ("cli", "torch"),
]
WITHOUT_TORCH = ["report.__main__", "results.__main__", "metrics", "cli", "config", "__main__"]


def test_every_room_has_its_floor_and_every_floor_its_rooms() -> None:
    assert {HOUSE["room"](name) for name in MODULES} - {HOUSE["FRONT"]} == set(FLOOR)


def test_imports_go_down() -> None:
    wrong = {
        pair: files
        for pair, files in HOUSE["arrows"]().items()
        if not FLOOR[pair[0]] < FLOOR[pair[1]]
    }
    assert not wrong, "a room imports one that is not below it"


def test_no_file_is_in_a_circle() -> None:
    graph = {name: HOUSE["inner"](path) - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_packages_inside_a_package_are_in_no_circle() -> None:
    """What files are to rooms, they are to a room's own folders: tables never need figures back."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        here = path.relative_to(HOUSE["SOURCE"]).parts
        folder = "/".join(here[:2]) if len(here) > 2 else "/".join(here)
        for target in HOUSE["inner"](path):
            there = MODULES[target].relative_to(HOUSE["SOURCE"]).parts
            other = "/".join(there[:2]) if len(there) > 2 else "/".join(there)
            if folder != other and name != HOUSE["FRONT"]:
                graph.setdefault(folder, set()).add(other)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("room", "library"), NEVER)
def test_what_never_imports_what(room: str, library: str) -> None:
    for name, path in MODULES.items():
        if HOUSE["room"](name) == room:
            assert library not in {each.split(".")[0] for each in HOUSE["imports"](path)}, name


def test_storage_starts_without_torch() -> None:
    for name, path in MODULES.items():
        if HOUSE["room"](name) == "storage":
            early = HOUSE["imports"](path, at_start=True)
            assert "torch" not in {each.split(".")[0] for each in early}, name


def test_reports_read_files_and_know_nothing_of_those_who_wrote_them() -> None:
    reads = {below for above, below in HOUSE["arrows"]() if above == "report"}
    assert reads <= {"storage", "cli", "config", "records", "errors", "lazy"}


def test_what_reads_results_starts_without_torch() -> None:
    names = ", ".join(f"headkv.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_picture_is_current() -> None:
    assert HOUSE["PICTURE"].read_text(encoding="utf-8") == HOUSE["draw"](), "run `make picture`"


def test_the_documentation_has_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in FLOOR if f"`{name}" not in text] == []


def test_files_read_in_one_sitting() -> None:
    """Counted with every statement on a line of its own, so that packing gains nothing."""
    long = {
        name: lines
        for name, path in MODULES.items()
        if (lines := len(ast.unparse(ast.parse(path.read_text())).splitlines())) > 300
    }
    assert long == {}


def test_nothing_escapes_the_formatter() -> None:
    packed = re.compile(r"#\s*fmt:\s*(skip|off)")
    ours = chain.from_iterable((ROOT / each).rglob("*.py") for each in ("src", "tests", "bench"))
    found = [path for path in ours if packed.search(path.read_text())]
    assert found == []


def test_no_test_imports_another() -> None:
    own = {path.stem for path in ROOT.glob("tests/**/test_*.py")}
    for path in ROOT.glob("tests/**/*.py"):
        names = chain.from_iterable(name.split(".") for name in HOUSE["imports"](path))
        assert not own & set(names), path
