"""The one exception for a user's mistake: printed as one line, exit code 2."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

LONGEST = 290
"""Characters of a message; with `error: ` before it, a line stays under 300."""
_WORD = 80
"""Characters that a single word, such as a path or a number, is cut to where room is short."""
_PLACE = 120
"""The same of a word in what to do: a path there is one to go to."""
_DO = 170
"""Characters of what to do where room is short."""


class UserError(Exception):
    """Something the user gave cannot be used.

    Its text is one line of at most `LONGEST` characters, whatever was typed: what does not fit is
    cut in its middle, and what cannot be printed is escaped.

    Args:
        what: what was given and why it cannot be used.
        allowed: the values or conditions that would do.
        do: what to type or change.
    """

    def __init__(self, what: str, *, allowed: str, do: str) -> None:
        self.what, self.allowed, self.do = what, allowed, do
        super().__init__(_joined(*map(_printable, (what, allowed, do))))


def choose(kind: str, given: str, known: Sequence[str], do: str | None = None) -> str:
    """Returns `given` if it is in `known`.

    Args:
        kind: what is chosen; the name of a setting, unless `do` says what to type.
        given: the user's word.
        known: the words that would do.
        do: what to type; None: to set the setting `kind`.

    Raises:
        UserError: `given` is not in `known`; those most like it come first in the message.
    """
    if given not in known:
        setting = re.fullmatch(r"[\w.]+", kind) is not None
        alike = get_close_matches(str(given)[:_WORD], known)
        raise UserError(
            f"unknown {kind} {given!r}",
            allowed=", ".join(dict.fromkeys([*alike, *known])) or "none",
            do=do or (f"set {kind}= to one of these" if setting else "use one of these"),
        )
    return given


def _printable(text: str) -> str:
    """A text as one line: white space is a blank, what no terminal shows is escaped."""
    line = " ".join(text[: 100 * LONGEST].split())
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in line
    )


def _joined(what: str, allowed: str, do: str) -> str:
    """The message. Where it is too long, long words are cut, then the list of what is allowed.

    What to do stands last and whole, if it can.
    """
    line = f"{what}; allowed: {allowed}; {do}"
    if len(line) > LONGEST:
        what, allowed = (
            " ".join(_cut(word, _WORD) for word in part.split()) for part in (what, allowed)
        )
        do = _cut(" ".join(_cut(word, _PLACE) for word in do.split()), _DO)
        room = LONGEST - len("; allowed: ; ") - len(do)
        allowed = _listed(allowed, max(room - len(what), room // 3))
        what = _cut(what, room - len(allowed))
        line = f"{what}; allowed: {allowed}; {do}"
    return line


def _listed(text: str, length: int) -> str:
    """As many of the words of a list as fit, and how many more there are."""
    if len(text) <= length or ", " not in text:
        return _cut(text, length)
    words = text.split(", ")
    for count in range(len(words) - 1, 0, -1):
        line = f"{', '.join(words[:count])} and {len(words) - count} more"
        if len(line) <= length:
            return line
    return _cut(text, length)


def _cut(text: str, length: int) -> str:
    """The text, its middle left out if it is longer."""
    if len(text) <= length:
        return text
    kept = length - 3
    return f"{text[: kept - kept // 3]}...{text[len(text) - kept // 3 :]}"
