"""Imports go down only. Read the list from the top: a module imports what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "headkv"
LAYERS = [
    ["__main__", "importance", "inspect"],
    ["heads.__main__", "heads.job", "heads.masking", "heads.report"],
    ["job", "efficiency", "heads.files", "heads.progress", "report", "results", "cli", "data"],
    ["runner", "estimate", "heads.find", "probe"],
    ["batching"],
    ["answering", "beta"],
    ["cells", "heads.needles", "heads.scores", "heads.watch", "benchmarks.needle"],
    ["asking", "fidelity"],
    ["settings", "provenance", "generate", "benchmarks.haystack", "benchmarks"],
    ["models", "prompts"],
    ["model_spec", "attention"],
    ["cache", "fetch"],
    ["layer_prompt"],
    ["methods", "kernels", "layer_importance"],
    ["ragged", "scoring", "budget", "head_scores", "metrics", "store"],
    ["config", "records", "lines", "shards", "memory", "progress", "interrupts"],
    ["errors"],
]
NEVER = [
    ("methods", "transformers"),
    ("scoring", "transformers"),
    ("budget", "transformers"),
    ("kernels", "transformers"),
    ("metrics", "torch"),
    ("report", "torch"),
    ("report", "transformers"),
    ("store", "torch"),
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, whole names."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int:
    """Depth of the most specific entry for a module; its package's otherwise."""
    known = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return known[".".join(parts[:end])]
    raise AssertionError(f"{module} has no layer: give it one in LAYERS")


@pytest.mark.parametrize("module", [name for name in modules() if name != "heads"])
def test_imports_go_down(module: str) -> None:
    for target in imports(modules()[module]):
        inner = target.removeprefix("headkv.")
        if not target.startswith("headkv.") or inner not in modules() or inner == "heads":
            continue
        same_package = module.split(".")[0] == inner.split(".")[0]
        if not same_package:
            assert layer(inner) > layer(module), f"{module} imports {inner}, which is not below it"


def test_no_circles() -> None:
    graph = {
        name: {
            target.removeprefix("headkv.")
            for target in imports(path)
            if target.removeprefix("headkv.") in modules() and target.startswith("headkv.")
        }
        - {name}
        for name, path in modules().items()
    }
    while graph:
        free = [name for name, targets in graph.items() if not targets & graph.keys()]
        assert free, f"these import each other: {sorted(graph)}"
        for name in free:
            del graph[name]


@pytest.mark.parametrize(("package", "library"), NEVER)
def test_what_never_imports_what(package: str, library: str) -> None:
    for name, path in modules().items():
        if name.split(".")[0] == package:
            assert not any(target.split(".")[0] == library for target in imports(path)), name


def test_the_report_starts_without_torch() -> None:
    code = (
        "import sys, headkv.report.tables.results, headkv.metrics; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_read_in_one_sitting() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}
