"""`headkv scores report|export|import`: what to do with score files that are there."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from headkv.calibration.score_files import export_scores, import_scores
from headkv.cli import Parser, front_door
from headkv.config import ROOT
from headkv.models.spec import SCORE_KINDS, load_spec
from headkv.storage.head_scores import read_scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Reports on, exports or imports score files.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a file or model that cannot be used.
    """
    given = _parser().parse_args(arguments)
    if given.what == "report":
        load_spec(given.model)
        for file in given.files:
            read_scores(file)
        # Torch and matplotlib take seconds to load, and the others do without.
        from headkv.calibration.score_report import Budgets, write_report

        sizes = tuple(given.kv_size)
        shown = Budgets(sizes, given.beta, given.prompt_tokens, given.granularity)
        written = write_report(given.model, given.files, given.output_dir, shown, given.kv_heads)
    elif given.what == "export":
        export_scores(given.source, given.target)
        written = [given.target]
    else:
        import_scores(given.source, given.target, given.model, given.kind)
        written = [given.target]
    for path in written:
        print(f"wrote {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="headkv scores",
        description="Head-score files: a report, and other shapes.",
    )
    what = parser.add_subparsers(dest="what", required=True)
    report = what.add_parser("report", help="tables and figures in <output_dir>/heads/<model>")
    report.add_argument("model", help="a name in conf/model, a folder or a hub id")
    report.add_argument("files", nargs="*", type=Path, help="score files; the model's own if none")
    report.add_argument("--output-dir", type=Path, default=ROOT / "results")
    report.add_argument("--kv-size", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    report.add_argument("--beta", type=float, default=1.2)
    report.add_argument("--prompt-tokens", type=int, default=8192)
    report.add_argument("--granularity", choices=["kv_head", "query_head"], default="kv_head")
    report.add_argument("--kv-heads", type=int, help="a layer's, where the model is not at hand")
    export = what.add_parser("export", help="into the published shape")
    adopt = what.add_parser("import", help="from the published shape: adds a header")
    for command in (export, adopt):
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
    adopt.add_argument("--model", required=True, help="that the scores were measured on")
    adopt.add_argument("--kind", required=True, choices=SCORE_KINDS)
    return parser


if __name__ == "__main__":
    sys.exit(front_door(main))
