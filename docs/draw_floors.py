"""Draws docs/images/floors.svg: the rooms of src/headkv on their floors, and their imports.

`make picture` runs it; the arrows are read from the source, the floors from docs/floors.yaml.
tests/test_layers.py uses the same functions and fails when the committed picture is not current.
"""

import ast
import functools
from collections.abc import Iterator
from html import escape
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "headkv"
PICTURE = ROOT / "docs" / "images" / "floors.svg"
FRONT = "__init__"  # names everything and imports it when asked: it stands beside the house
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")
WIDTH, BOX, HEIGHT, STOREY = 1040, 190, 44, 92


def floors() -> list[dict[str, str]]:
    """The rooms of every floor with what each is, from the top."""
    return yaml.safe_load((ROOT / "docs" / "floors.yaml").read_text(encoding="utf-8"))


@functools.cache
def modules() -> dict[str, Path]:
    """Every file by its name in the package, `kernels.dense`; a folder's own is its `__init__`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        package = parts[-1] == FRONT and len(parts) > 1
        found[".".join(parts[:-1] if package else parts)] = path
    return found


@functools.cache
def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """Whole names of what a file imports; `at_start` leaves out what functions import."""
    found: set[str] = set()
    for node in _running(ast.parse(path.read_text(encoding="utf-8")), at_start):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _running(node: ast.AST, at_start: bool) -> Iterator[ast.AST]:
    """Nodes below a node that run: not what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if at_start and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _running(child, at_start)


def inner(path: Path) -> set[str]:
    """Names of the package's own modules that a file imports."""
    known = modules()
    targets = {name.removeprefix("headkv.") for name in imports(path) if "headkv." in name}
    return {name for name in targets if name in known}


def room(module: str) -> str:
    """The room that a module belongs to."""
    return module.split(".")[0]


def arrows() -> dict[tuple[str, str], list[str]]:
    """Which room imports which, each with the files that do; the front's are not counted."""
    found: dict[tuple[str, str], list[str]] = {}
    for module, path in modules().items():
        for target in sorted(inner(path)):
            if room(target) != room(module) and FRONT not in (module, target):
                found.setdefault((room(module), room(target)), []).append(f"{module}: {target}")
    return dict(sorted(found.items()))


def draw() -> str:
    """The picture as SVG. Arrows to the two lowest floors are listed in it, not drawn."""
    storeys = floors()
    ground = {name for storey in storeys[-2:] for name in storey}
    corner = {
        name: (WIDTH * (2 * place + 1) / (2 * len(storey)) - BOX / 2, 20 + floor * STOREY)
        for floor, storey in enumerate(storeys)
        for place, name in enumerate(storey)
    }
    measured = [f"{above} -> {below}" for above, below in arrows()]
    lines, boxes = [], []
    for above, below in arrows():
        if below in ground or above not in corner or below not in corner:
            continue
        (left, top), (to_left, to_top) = corner[above], corner[below]
        colour = COLOURS[list(corner).index(above) % len(COLOURS)]
        x, y, end, bottom = left + BOX / 2, top + HEIGHT, to_left + BOX / 2, to_top - 3
        bend = (bottom - y) / 2
        lines.append(
            f'<path d="M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {end:.0f},{bottom - bend:.0f} '
            f'{end:.0f},{bottom:.0f}" stroke="{colour}" marker-end="url(#tip)"/>'
        )
    for storey in storeys:
        for name, what in storey.items():
            left, top = corner[name]
            middle = left + BOX / 2
            boxes.append(
                f'<rect x="{left:.0f}" y="{top}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
                f'<text x="{middle:.0f}" y="{top + 18}" class="name">{name}</text>'
                f'<text x="{middle:.0f}" y="{top + 35}">{escape(what)}</text>'
            )
    height = 20 + len(storeys) * STOREY
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            "<title>The floors of src/headkv: imports go down only</title>",
            f"<desc>\n{escape(chr(10).join(measured))}\n</desc>",
            "<style>text{font:12px sans-serif;text-anchor:middle;fill:#333}.name{font:bold 14px",
            "sans-serif}rect{fill:#fff;stroke:#777}path{fill:none;stroke-opacity:.55}</style>",
            '<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6"'
            ' markerHeight="6" orient="auto"><polygon points="0,0 6,3 0,6"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" style="stroke:none"/>',
            *lines,
            *boxes,
            f'<text x="{WIDTH / 2:.0f}" y="{height - 12}">All rooms may use the two lowest'
            " floors; those arrows are not drawn.</text>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
