"""`headkv results ls|verify|merge|gc|diff`: looking after results folders."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from headkv.cli import Parser, front_door
from headkv.results.check import problems
from headkv.results.merge import merge
from headkv.results.tidy import partials, remove, waste
from headkv.storage.tree import asked, cells

_DIFF = """\
Two runs, folders or methods against each other, on the examples that both have.

  headkv results diff results results_of_yesterday       every cell that both have
  headkv results diff results/needle/M other/needle/M    one benchmark and model
  headkv results diff snapkv headkv_r2                   two methods, size by size
  headkv results diff snapkv/64 snapkv/128               two sizes of a method
  headkv results diff fullkv snapkv --folder DIR         the full cache against each size

Of each pair of cells: both means, their difference with its 95 % interval, on how many examples
each is better, how many answers differ, and a paired test.

exit code: 0 no difference is shown, 1 at least one is (Holm-corrected p < 0.05), 2 a mistake
"""
COLUMNS = [
    "benchmark",
    "model",
    "method",
    "size",
    "task",
    "variant",
    "settings",
    "rows",
    "failed",
    "files",
    "written",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Lists, verifies, merges, tidies or compares results.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code: 0, or 1 if `verify` found something or `diff` a difference.

    Raises:
        UserError: no results, a run that is writing, or rows that do not go together.
    """
    parser = Parser(prog="headkv results", description="Look after a results folder.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("ls", "one line a cell and its settings: how many rows are there"),
        ("verify", "check every line; exit code 1 if something is wrong"),
        ("merge", "shards into one file a cell, other folders' rows with them"),
        ("gc", "what no table takes: half-written, unreadable, failed, doubled, other settings"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("folder", nargs="?", type=Path, default=Path("results"))
        if name == "merge":
            command.add_argument(
                "sources", nargs="*", type=Path, metavar="from", help="other results folders"
            )
        if name == "gc":
            command.add_argument("--yes", action="store_true", help="remove it, not only say so")
    command = commands.add_parser(
        "diff",
        help="two runs, folders or methods against each other, with paired tests",
        description=_DIFF,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in "AB":
        command.add_argument(side.lower(), metavar=side, help="a folder, or METHOD or METHOD/SIZE")
    command.add_argument(
        "--folder", type=Path, help="where methods are looked up (default: results, or its sample)"
    )
    given = parser.parse_args(arguments)
    return _COMMANDS[given.command](given)


def _ls(given: argparse.Namespace) -> int:
    """Prints one line a cell and its settings."""
    expected = asked(given.folder)
    table = [COLUMNS]
    for cell in cells(given.folder):
        written = max(path.stat().st_mtime for path in cell.files)
        when = datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d %H:%M")
        for key in cell.keys or [""]:
            count = expected.get((cell.name, key))
            rows = f"{cell.answered(key)}" + (f"/{count}" if count is not None else "")
            mark = key if key == cell.current else f"({key})"
            table.append(
                [*cell.place, mark, rows, str(cell.failed(key)), str(len(cell.files)), when]
            )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())
    if any(row[6].startswith("(") for row in table):
        print("Settings in brackets: others of the same cell, which no table takes.")
    return 0


def _verify(given: argparse.Namespace) -> int:
    """Prints what is wrong."""
    found = problems(given.folder)
    print("\n".join(found) if found else f"{given.folder}: {len(cells(given.folder))} cells, sound")
    return 1 if found else 0


def _merge(given: argparse.Namespace) -> int:
    """Puts cells together and prints how many."""
    done = merge(given.folder, given.sources)
    left_out = f"; left out, doubled or torn: {done.doubled}" if done.doubled else ""
    print(f"{given.folder}: {done.cells} cells put together, {done.rows} rows{left_out}")
    return 0


def _gc(given: argparse.Namespace) -> int:
    """Prints what can go, and removes it if told to."""
    found, leftovers = waste(given.folder), partials(given.folder)
    for each in found:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(each.why.items()))
        print(f"{each.path.relative_to(given.folder)}: {why or 'empty'}")
    for path in leftovers:
        print(f"{path.relative_to(given.folder)}: left by a killed run")
    if not found and not leftovers:
        print("nothing to remove")
    elif given.yes:
        remove(found, leftovers)
        print("removed")
    else:
        print("nothing removed yet: add --yes")
    return 0


def _diff(given: argparse.Namespace) -> int:
    """Prints what differs."""
    # Statistics take a second to load, which the other commands do without.
    from headkv.report.load import results_folder
    from headkv.results.diff import LEVEL, diff_table, differences, find

    default = results_folder(None) if given.folder is None else given.folder
    sides = find(given.a, default), find(given.b, default)
    found = differences(*sides)
    print(diff_table(found, *sides).to_text(), end="")
    shown = int((found["p_holm"] < LEVEL).sum())
    print(f"{shown} of {len(found)} comparisons show a difference (Holm-corrected p < {LEVEL})")
    return 1 if shown else 0


_COMMANDS = {"ls": _ls, "verify": _verify, "merge": _merge, "gc": _gc, "diff": _diff}


if __name__ == "__main__":
    sys.exit(front_door(main))
