"""The one exception for a user's mistake: printed as one line, exit code 2."""


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


def choose(kind: str, given: str, known: list[str]) -> str:
    """Returns `given` if it is in `known`; raises `UserError` that lists what is."""
    if given not in known:
        raise UserError(
            f"unknown {kind} {given!r}", allowed=", ".join(known), do=f"set {kind}= to one of these"
        )
    return given
