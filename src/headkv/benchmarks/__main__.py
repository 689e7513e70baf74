"""`headkv data [WHICH ...]`: fetches ahead and verifies what the benchmarks read.

Everything lands in the cache; where it is there already, nothing asks the network.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headkv.benchmarks import babilong, longbench, loogle
from headkv.benchmarks.lm_eval_files import LM_EVAL
from headkv.benchmarks.rows import Fetch, cached, read_rows
from headkv.cli import Parser, front_door
from headkv.config import load_group
from headkv.downloads.wheels import WORDS, fetch_asset
from headkv.errors import UserError


@dataclass(frozen=True)
class Files:
    """What a benchmark reads.

    Attributes:
        names: names of the files.
        fields: names that every row has.
        fetch: downloads files into a folder.
        rows: gives the number of rows of a file; None: not known.
    """

    names: Sequence[str]
    fields: Sequence[str]
    fetch: Fetch
    rows: Callable[[str], int | None]


def benchmark_files() -> dict[str, Files]:
    """Returns what each benchmark with files reads, BABILong with the lengths of its yaml."""
    lengths = load_group("benchmark", "babilong")["lengths"]
    tales = [f"{task}_{length}.jsonl" for task in babilong.HEADKV for length in lengths]
    return {
        "longbench": Files(
            longbench.FILES, longbench.FIELDS, longbench.fetch, longbench.rows_expected
        ),
        "loogle": Files(loogle.FILES, loogle.FIELDS, loogle.fetch, lambda name: None),
        "babilong": Files(tales, babilong.FIELDS, babilong.fetch, lambda name: 100),
    }


def verify(benchmark: str, files: Files) -> str:
    """Fetches what is missing of a benchmark and reads every row of it.

    Args:
        benchmark: the benchmark's name.
        files: what it reads.

    Returns:
        One line: files, rows and where they lie.

    Raises:
        UserError: a file cannot be had, has a broken row, or not the number of rows it should.
    """
    folder, total = cached(benchmark, files.names, files.fetch), 0
    for name in files.names:
        count = sum(1 for _ in read_rows(folder / name, files.fields))
        if (expected := files.rows(name)) not in (None, count):
            raise UserError(
                f"{folder / name} has {count} rows", allowed=f"{expected}", do="delete it"
            )
        total += count
    return f"{benchmark}: {len(files.names)} files, {total:,} rows: {folder}"


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
    parser.add_argument("which", nargs="*", help=f"of {', '.join(choices)}; none: all")
    failed: dict[str, UserError] = {}
    for name in parser.parse_args(arguments).which or choices:
        if name not in choices:
            parser.error(f"unknown {name!r}; allowed: {', '.join(choices)}")
        try:
            if name == "prompts":
                print(f"prompts: {fetch_asset(LM_EVAL)}")
                print(f"words: {fetch_asset(WORDS)}")
            else:
                print(verify(name, benchmarks[name]))
        except UserError as problem:
            failed[name] = problem
            print(f"{name}: {problem.what}")
    if failed:
        (_, problem), *others = failed.items()
        also = f" (nor {', '.join(name for name, _ in others)})" if others else ""
        raise UserError(problem.what + also, allowed=problem.allowed, do=problem.do)
    return 0


if __name__ == "__main__":
    sys.exit(front_door(main))
