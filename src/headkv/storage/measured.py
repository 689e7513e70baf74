"""Where files lie that were measured on a model: head scores and layer importance."""

from collections.abc import Iterator
from pathlib import Path

from headkv.config import DATA, ROOT


def find_measured(
    folder: str, name: str, data_dir: Path | None = None, given: str | None = None
) -> Path | None:
    """Finds a file: under `data_dir`, in the checkout, or among the package's own files.

    Args:
        folder: `head_scores` or `layer_importance`.
        name: the file's name where no path is given.
        data_dir: the user's data.
        given: a path that the user or a yaml names, relative to the checkout.

    Returns:
        The file. One that `given` names is returned even if it is nowhere, so that reading it says
        so; None if nothing was named and no file is there.
    """
    for path in _places(folder, name, data_dir, given):
        if path.is_file():
            return path
    return None if given is None else ROOT / Path(given).expanduser()


def _places(folder: str, name: str, data_dir: Path | None, given: str | None) -> Iterator[Path]:
    """Where a file may lie, the first place to look in first."""
    if given is None:
        if data_dir is not None:
            yield data_dir / folder / name
        yield ROOT / "data" / folder / name
        yield DATA / folder / name
        return
    path = Path(given).expanduser()
    if data_dir is not None:
        yield data_dir / folder / path
        yield data_dir / folder / path.name
    yield ROOT / path
    yield DATA.parent / path
