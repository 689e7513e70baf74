"""The wheel works in another folder, without the checkout, and takes plug-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, built from a copy of what git tracks of the sources."""
    place = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "data"):
        shutil.copytree(ROOT / name, place / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*PIP, "wheel", *offline, "-w", place, place / "source"], check=True)
    (wheel,) = place.glob("headkv-*.whl")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", place / "site", wheel], check=True
    )
    return place / "site"


def run(site: Path, folder: Path, *words: str) -> str:
    """Runs Python in a folder of its own, where the checkout is not to be seen."""
    shim = folder / "shim"  # keeps the editable install of this environment off the path
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [each for each in sys.path if not each.startswith({str(ROOT / 'src')!r})]\n"
        "sys.meta_path[:] = [each for each in sys.meta_path if 'editable' not in repr(each)]\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(shim), str(site)]))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_methods_models_and_scores_are_found(site: Path, tmp_path: Path) -> None:
    program = f"""
import headkv, headkv.config
from pathlib import Path
from headkv.storage.head_scores import find_head_scores
assert headkv.__file__.startswith({str(site)!r}), headkv.__file__
assert headkv.build_method("snapkv", kv_size=64).kv_size == 64
spec = headkv.load_spec("smollm2_135m")
found = find_head_scores(spec.name, "retrieval", None, spec.head_scores["retrieval"])
assert found.is_file() and str(found).startswith({str(site)!r}), found
assert headkv.config.ROOT == Path.cwd()
print(*headkv.names("method"))
"""
    said = run(site, tmp_path, "-c", program)
    own = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    assert said.split() == own


def test_the_command_composes(site: Path, tmp_path: Path) -> None:
    assert "usage: headkv" in run(site, tmp_path, "-m", "headkv", "--help")
    said = run(site, tmp_path, "-m", "headkv", "needle", "method=snapkv", "--cfg", "job")
    assert "kv_size: 128" in said and "snapkv" in said


def test_everything_is_shipped(site: Path) -> None:
    for folder in ("conf", "data"):
        wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file()}
        there = {
            p.relative_to(site / "headkv")
            for p in (site / "headkv" / folder).rglob("*")
            if p.is_file()
        }
        assert there == wanted
