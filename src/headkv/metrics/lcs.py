"""Longest common subsequences of words, of texts of any length: a row of the table is one number.

The table holds the length for the first `i` words of a text and the first `j` of another. From one
row or column to the next it grows by 1 or not at all, so bits hold it, and whole numbers of any
size are worked out a column at a time (Hyyrö 2004). Walks back through the table take the turns
that two packages take, for of several longest subsequences they score the one that they find.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length alone.

    Args:
        a: words.
        b: words.
    """
    texts = Texts([a])
    return len(a) - texts.next_rows(b, keep=False)[-1].bit_count()


class Texts:
    """Texts whose common subsequences with other texts are looked for, with all of them at once.

    Args:
        texts: words of each.

    Attributes:
        texts: words of each.
        starts: where each begins in a row, a bit a word and one more, which takes what is carried.
        places: word -> the bits of its places in all of them.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts, self.starts = texts, [0]
        self.places: dict[str, int] = {}
        self._ones = 0
        for text in texts:
            start = self.starts[-1]
            for index, word in enumerate(text, start):
                self.places[word] = self.places.get(word, 0) | 1 << index
            self._ones |= ((1 << len(text)) - 1) << start
            self.starts.append(start + len(text) + 1)

    def next_rows(self, other: Sequence[str], keep: bool = True) -> list[int]:
        """The rows after each word of another text; bits that are not set are where lengths grow.

        Args:
            other: words of the other text.
            keep: whether all rows are wanted, that of no word first; else the last alone.
        """
        row, ones = self._ones, self._ones
        rows = [row]
        for word in other:
            match = self.places.get(word)
            if match is not None:
                common = row & match
                row = ((row + common) | (row - common)) & ones
            if keep:
                rows.append(row)
        return rows if keep else [row]

    def against(self, other: Sequence[str]) -> "Tables":
        """The tables of all these texts and another."""
        return Tables(self, other)


class Tables:
    """The tables of several texts and one other.

    Args:
        texts: the texts.
        other: words of the other.
    """

    def __init__(self, texts: Texts, other: Sequence[str]) -> None:
        self.texts, self.other = texts, other
        self._rows = texts.next_rows(other)
        self._where: dict[str, list[int]] = {}
        for place, word in enumerate(other, 1):
            if word in texts.places:
                self._where.setdefault(word, []).append(place)

    def _last(self, word: str, j: int) -> int:
        """The last place of a word among the first `j`, counted from 1; 0: it is none of them."""
        where = self._where.get(word, [])
        at = bisect_right(where, j)
        return where[at - 1] if at else 0

    def upwards(self, number: int) -> set[int]:
        """Places of a text on the subsequence that `rouge-score` finds.

        From the end of both texts: to the left where that is longer, else up.

        Args:
            number: which of the texts.
        """
        text, start = self.texts.texts[number], self.texts.starts[number]
        found: set[int] = set()
        i, j = len(text), len(self.other)
        while i and j:
            last = self._last(text[i - 1], j)
            # Where the length grows with the text's word, it does so down to the word's last place.
            if last == j or not self._rows[j] >> (start + i - 1) & 1:
                found.add(i - 1)
                j = last - 1
            i -= 1
        return found

    def leftwards(self, number: int) -> tuple[set[str], int]:
        """Words of a text on the subsequence that `rouge` finds, and how deep it calls itself.

        From the end of both texts: up where that is longer, else to the left.

        Args:
            number: which of the texts.
        """
        text, start = self.texts.texts[number], self.texts.starts[number]
        found: set[str] = set()
        calls, i, j = 1, len(text), len(self.other)
        while i and j:
            mask = (1 << i) - 1

            def length(place: int, start: int = start, mask: int = mask, i: int = i) -> int:
                return i - (self._rows[place] >> start & mask).bit_count()

            # To the left nothing changes down to where this length begins, but for the word itself.
            first = bisect_left(range(j + 1), length(j), key=length)
            last = self._last(text[i - 1], j)
            calls += j - max(first, last)
            j = max(first, last)
            if not j:
                break
            calls += 1
            i -= 1
            if j == last:
                found.add(text[i])
                j -= 1
        return found, calls
