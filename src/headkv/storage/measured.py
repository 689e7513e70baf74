"""Where files lie that were measured on a model: head scores and layer importance."""

from pathlib import Path

from headkv.config import DATA, ROOT, located


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
    own = [] if data_dir is None else [data_dir / folder]
    if given is not None:
        path = Path(given).expanduser()
        places = [place / part for place in own for part in (path, path.name)]
        return next((place for place in places if place.is_file()), located(path))
    places = [place / name for place in [*own, ROOT / "data" / folder, DATA / folder]]
    return next((place for place in places if place.is_file()), None)
