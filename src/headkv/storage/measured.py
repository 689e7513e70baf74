"""Where files lie that were measured on a model: head scores and layer importance."""

from pathlib import Path

from headkv.config import DATA, ROOT, located


def find_measured(
    folder: str, name: str, data_dir: Path | None = None, spec_path: str | None = None
) -> Path | None:
    """Finds a model's file: what was measured and lies where it is written, else what a yaml names.

    Args:
        folder: `head_scores` or `layer_importance`.
        name: the name that a measured file has.
        data_dir: the user's data, looked in first.
        spec_path: what the model's yaml names, relative to the checkout.

    Returns:
        The file. One that `spec_path` names is returned even if it is nowhere, so that reading it
        says so; None if no file is there and none is named.
    """
    own = [] if data_dir is None else [data_dir / folder]
    for place in [*own, ROOT / "data" / folder, DATA / folder]:
        if (place / name).is_file():
            return place / name
    return None if spec_path is None else place_of(folder, spec_path, data_dir)


def place_of(folder: str, given: str, data_dir: Path | None = None) -> Path:
    """Returns where a file lies that was named: under `data_dir` if it is there, else as named.

    Args:
        folder: `head_scores` or `layer_importance`.
        given: a path, relative to the checkout.
        data_dir: the user's data.
    """
    own = None if data_dir is None else data_dir / folder / Path(given).expanduser()
    return own if own is not None and own.is_file() else located(given)
