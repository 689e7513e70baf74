"""Where configs, data and the files that a yaml names lie, in a checkout or a wheel."""

from pathlib import Path

from headkv.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_IS_CHECKOUT = (_PACKAGE.parents[1] / "pyproject.toml").is_file() and not (
    _PACKAGE / "conf"
).is_dir()

ROOT = _PACKAGE.parents[1] if _IS_CHECKOUT else Path.cwd()
"""The checkout; the working directory where the package is installed from a wheel."""
CONF = (_PACKAGE.parents[1] if _IS_CHECKOUT else _PACKAGE) / "conf"
DATA = CONF.parent / "data"


def located(path: str | Path) -> Path:
    """Where a file that a yaml names lies: in the checkout or working directory, else in the wheel.

    Args:
        path: absolute, or relative such as `data/head_scores/smollm2_135m_semantic.json`.
    """
    given = expanded("file", path)
    shipped = DATA.parent / given
    return shipped if not (ROOT / given).exists() and shipped.exists() else ROOT / given


def expanded(key: str, path: str | Path) -> Path:
    """A path with `~` resolved.

    Args:
        key: the setting that it was given for, for the message.
        path: as the user wrote it.

    Raises:
        UserError: `~NAME` of a user that there is not, or no path at all.
    """
    try:
        found = Path(path).expanduser()
        found.is_dir()  # a name may be too long, or hold what no name can
    except (RuntimeError, OSError, ValueError) as problem:
        raise UserError(
            f"{key}={str(path)!r}: {getattr(problem, 'strerror', None) or problem}",
            allowed="a path that can be",
            do=f"change {key}=",
        ) from problem
    return found
