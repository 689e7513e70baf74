"""What may come next: what came after the same tokens before (prompt lookup).

An answer often repeats the question and a sentence of the prompt. A guess costs nothing to make,
and is only kept if the model would have said the same.
"""

from collections.abc import Sequence

_SIZE = 2  # tokens that must be the same


class Guesses:
    """Guesses the continuation of one text.

    Args:
        text: token ids so far.
    """

    def __init__(self, text: Sequence[int]) -> None:
        self._text: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # where a sequence of tokens ended last
        self.extend(text)

    def extend(self, tokens: Sequence[int]) -> None:
        """The text goes on.

        Args:
            tokens: token ids.
        """
        for token in tokens:
            if len(self._text) >= _SIZE:  # of those before: the last ones are never their own guess
                self._behind[tuple(self._text[-_SIZE:])] = len(self._text)
            self._text.append(token)

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return len(self._text)

    def next(self, most: int) -> list[int]:
        """What came last after the tokens that the text ends with.

        Args:
            most: tokens at most.

        Returns:
            Token ids; none if these tokens are new.
        """
        place = self._behind.get(tuple(self._text[-_SIZE:]))
        return [] if place is None else self._text[place : place + most]
