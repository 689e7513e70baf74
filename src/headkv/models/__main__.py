"""`headkv models`: fetches the haystack and converts the embedded model, ahead of any run."""

import sys
from collections.abc import Sequence

from headkv.cli import Parser, front_door
from headkv.downloads.wheels import haystack_dir
from headkv.models.spec import load_spec


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetches the haystack and converts the embedded model.

    Args:
        arguments: of the command line; there are none but `--help`.

    Raises:
        UserError: one of the two cannot be had.
    """
    Parser(prog="headkv models", description=__doc__).parse_args(arguments)
    from headkv.models.loading import model_folder  # torch

    for folder in (haystack_dir(), model_folder(load_spec("smollm2_135m"))):
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(front_door(main))
