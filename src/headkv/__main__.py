"""`headkv results ...` and `headkv report ...`, wherever the environment's `bin` is on the path."""

import sys
from importlib import import_module

from headkv.errors import UserError, choose

COMMANDS = {"report": "headkv.report.__main__", "results": "headkv.results.__main__"}


def main() -> int:
    """Hands the rest of the command line to the command that it names; returns its exit code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: headkv {'|'.join(COMMANDS)} ...\n\nheadkv COMMAND --help says more.")
        return 0
    try:
        choose("command", name, list(COMMANDS))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[name]).main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
