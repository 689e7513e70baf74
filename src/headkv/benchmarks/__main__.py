"""`headkv data [WHICH ...]`: fetches ahead and verifies what the benchmarks read.

Everything lands in the cache; where it is there already, nothing asks the network. With --data-dir
the user's own files are verified, and nothing is fetched.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headkv.benchmarks import babilong, longbench, longproc, loogle, ruler_documents
from headkv.benchmarks.infinitebench import InfiniteBench
from headkv.benchmarks.lm_eval_files import LM_EVAL
from headkv.benchmarks.longbench2 import LongBench2
from headkv.benchmarks.row_files import RowFiles
from headkv.benchmarks.rows import Fetch, cached, present, read_rows
from headkv.benchmarks.scbench import SCBench
from headkv.cli import Parser, front_door
from headkv.config import load_group
from headkv.downloads.wheels import WORDS, fetch_asset
from headkv.errors import UserError

_LONGBENCH2 = 503  # rows


@dataclass(frozen=True)
class Files:
    """What a benchmark reads.

    Attributes:
        names: names of the files.
        read: reads a file and yields its rows, or raises `UserError` at the first that is none.
        fetch: downloads files into a folder; None: they cannot be had so.
        rows: gives the number of rows of a file; None: not known.
    """

    names: Sequence[str]
    read: Callable[[Path], Iterable[Any]]
    fetch: Fetch | None
    rows: Callable[[str], int | None] = lambda name: None


def benchmark_files() -> dict[str, Files]:
    """Returns what each benchmark with files reads, BABILong with the lengths of its yaml."""
    lengths = load_group("benchmark", "babilong")["lengths"]
    tales = [f"{task}_{length}.jsonl" for task in babilong.HEADKV for length in lengths]
    return {
        "longbench": Files(
            longbench.FILES, _lines(longbench.FIELDS), longbench.fetch, longbench.rows_expected
        ),
        "loogle": Files(loogle.FILES, _lines(loogle.FIELDS), loogle.fetch),
        "babilong": Files(tales, _lines(babilong.FIELDS), babilong.fetch, lambda name: 100),
        "ruler": Files(
            list(ruler_documents.FILES.values()),
            lambda path: ruler_documents.read_documents(path).questions,
            ruler_documents.fetch,
        ),
        "longbench2": _row_files(LongBench2, lambda name: _LONGBENCH2),
        "infinitebench": _row_files(InfiniteBench),
        "scbench": _row_files(SCBench),
        "longproc": Files(
            list(longproc.LongProc.files.values()), longproc.checked_rows, fetch=None
        ),
    }


def _lines(fields: Sequence[str]) -> Callable[[Path], Iterable[Any]]:
    return lambda path: read_rows(path, fields)


def _row_files(kind: type[RowFiles], rows: Callable[[str], int | None] | None = None) -> Files:
    names = list(dict.fromkeys(kind.files.values()))
    return Files(names, _lines(kind.fields), kind.fetch, rows or (lambda name: None))


def verify(benchmark: str, files: Files, data_dir: Path | None = None) -> str:
    """Fetches what is missing of a benchmark and reads every row of it.

    Args:
        benchmark: the benchmark's name.
        files: what it reads.
        data_dir: the user's data, of which what is there is read and nothing is fetched; None: the
            cache.

    Returns:
        One line: files, rows and where they lie.

    Raises:
        UserError: a file cannot be had, has a broken row, or not the number of rows it should.
    """
    if data_dir is None:
        names, folder = files.names, cached(benchmark, files.names, files.fetch)
    else:
        names, folder = present(benchmark, files.names, data_dir), data_dir / benchmark
    total = 0
    for name in names:
        count = sum(1 for _ in files.read(folder / name))
        if (expected := files.rows(name)) not in (None, count):
            raise UserError(
                f"{folder / name} has {count} rows", allowed=f"{expected}", do="delete it"
            )
        total += count
    return f"{benchmark}: {len(names)} files, {total:,} rows: {folder}"


def asked(
    which: Sequence[str], benchmarks: Mapping[str, Files], data_dir: Path | None
) -> Sequence[str]:
    """What is verified: what is named; else all that can be fetched, or that `data_dir` has.

    Raises:
        UserError: `data_dir` has no folder of any benchmark.
    """
    if which:
        return which
    if data_dir is None:
        return ["prompts", *(name for name, files in benchmarks.items() if files.fetch)]
    there = [name for name in benchmarks if (data_dir / name).is_dir()]
    if not there:
        raise UserError(
            f"{data_dir} has no folder of a benchmark",
            allowed=", ".join(benchmarks),
            do="change --data-dir",
        )
    return there


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetches and verifies what is asked for; what cannot be had does not keep the rest back.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code.

    Raises:
        UserError: something cannot be had; the first of it.
    """
    benchmarks = benchmark_files()
    choices = ["prompts", *benchmarks]
    parser = Parser(prog="headkv data", description=__doc__)
    told = f"of {', '.join(choices)}; none: all that can be fetched (longproc lies with its code)"
    parser.add_argument("which", nargs="*", help=told)
    parser.add_argument("--data-dir", type=Path, help="verify the files in this folder instead")
    given = parser.parse_args(arguments)
    failed: dict[str, UserError] = {}
    for name in asked(given.which, benchmarks, given.data_dir):
        if name not in choices:
            parser.error(f"unknown {name!r}; allowed: {', '.join(choices)}")
        try:
            if name == "prompts":
                print(f"prompts: {fetch_asset(LM_EVAL)}")
                print(f"words: {fetch_asset(WORDS)}")
            else:
                print(verify(name, benchmarks[name], given.data_dir))
        except UserError as problem:
            failed[name] = problem
            print(f"{name}: {problem.what}")
    if failed:
        (_, first), *others = failed.items()
        also = f" (nor {', '.join(name for name, _ in others)})" if others else ""
        raise UserError(first.what + also, allowed=first.allowed, do=first.do)
    return 0


if __name__ == "__main__":
    sys.exit(front_door(main))
