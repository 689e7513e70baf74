"""`headkv report tables figures html sanity [output_dir]`: results made readable."""

import sys
from collections.abc import Sequence

import pandas as pd

from headkv.cli import Parser, front_door
from headkv.errors import UserError, choose
from headkv.report.groups import grouped
from headkv.report.load import load_results, results_folder
from headkv.report.sanity import sanity
from headkv.report.tables.results import tables_text, write_tables
from headkv.storage.tree import result_files
from headkv.storage.tuned import tuned_files

WHAT = ["tables", "figures", "html", "sanity"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what is asked for.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code: 0; 1 if `sanity` found faults.

    Raises:
        UserError: the words cannot be read, or the folder has no usable results.
    """
    parser = Parser(
        prog="headkv report", description="Tables, figures and a page from result files."
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="tables|figures|html|sanity ... [output_dir]",
        help="what to build, then the results folder (default: results, or its sample)",
    )
    parser.add_argument("--benchmark", help="only this one (default: every one that has results)")
    given = parser.parse_args(arguments)
    what, folder = _split(given.words)
    output_dir = results_folder(folder)
    # Trials of settings are drawn without any table.
    alone = what == ["figures"] and tuned_files(output_dir) and not result_files(output_dir)
    rows = pd.DataFrame() if alone else load_results(output_dir, given.benchmark)
    groups = grouped([] if alone else rows)  # what they amount to is worked out once for all
    written = []
    if "tables" in what:
        print(tables_text(groups))
        written += write_tables(groups, output_dir)
    if "figures" in what:
        # Matplotlib takes a second to load, and tables do without.
        from headkv.report.figures.results import write_figures

        written += write_figures(groups, output_dir)
    if "html" in what:
        from headkv.report.html.page import write_page

        written.append(write_page(groups, output_dir))
    print("".join(f"wrote {path}\n" for path in written), end="")
    if "sanity" not in what:
        return 0
    text, faults = sanity(rows)
    print(text)
    print("".join(f"FAULT: {line}\n" for line in faults), end="", file=sys.stderr)
    return 1 if faults else 0


def _split(words: list[str]) -> tuple[list[str], str | None]:
    """What to build, and the folder, if one of the words is none of these."""
    what = [word for word in words if word in WHAT]
    folders = [word for word in words if word not in WHAT]
    if not what or len(folders) > 1:
        choose("report", words[0] if words else "", WHAT, do="name what to build")
        raise UserError(
            f"cannot read {' '.join(words)!r}",
            allowed="tables, figures, html, sanity, and one results folder",
            do="type for example `headkv report tables figures results`",
        )
    return what, folders[0] if folders else None


if __name__ == "__main__":
    sys.exit(front_door(main, sys.argv[1:]))
