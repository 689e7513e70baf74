"""The one exception for a user's mistake: printed as one line, exit code 2."""

import re
from collections.abc import Sequence


class UserError(Exception):
    """Something the user gave cannot be used.

    Args:
        what: what was given and why it cannot be used.
        allowed: the values or conditions that would do.
        do: what to type or change.
    """

    def __init__(self, what: str, *, allowed: str, do: str) -> None:
        self.what, self.allowed, self.do = what, allowed, do
        super().__init__(" ".join(f"{what}; allowed: {allowed}; {do}".split()))


def choose(kind: str, given: str, known: Sequence[str], do: str | None = None) -> str:
    """Returns `given` if it is in `known`.

    Args:
        kind: what is chosen; the name of a setting, unless `do` says what to type.
        given: the user's word.
        known: the words that would do.
        do: what to type; None: to set the setting `kind`.

    Raises:
        UserError: `given` is not in `known`.
    """
    if given not in known:
        setting = re.fullmatch(r"[\w.]+", kind) is not None
        raise UserError(
            f"unknown {kind} {given!r}",
            allowed=", ".join(known) or "none",
            do=do or (f"set {kind}= to one of these" if setting else "use one of these"),
        )
    return given
