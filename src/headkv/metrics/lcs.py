"""Longest common subsequences of words, of texts of any length."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_SMALL = 20_000
"""Cells up to which plain lists are faster than arrays."""


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """The length alone, bit by bit (Hyyrö 2004): a row of the table is one whole number.

    Args:
        a: words.
        b: words.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    ones = (1 << len(a)) - 1
    row = ones
    for word in b:
        match = places.get(word, 0)
        if match:
            common = row & match
            row = ((row + common) | (row - common)) & ones
    return len(a) - row.bit_count()


def lcs_table(a: Sequence[str], b: Sequence[str]) -> Any:
    """The table of lengths: entry `[i][j]` is that of the first `i` and the first `j` words.

    Args:
        a: words.
        b: words.

    Returns:
        A list of lists, or an array of two bytes a cell: 500 words against 100,000 are 100 MB.
    """
    if len(a) * len(b) <= _SMALL:
        rows = [[0] * (len(b) + 1)]
        for word in a:
            above, row = rows[-1], [0]
            for j, other in enumerate(b):
                row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
            rows.append(row)
        return rows
    if len(a) > len(b):  # the same table the other way round, with fewer and longer rows
        return lcs_table(b, a).T
    numbers = {word: number for number, word in enumerate(dict.fromkeys(b))}
    columns = np.array([numbers[word] for word in b])
    small = len(a) < np.iinfo(np.uint16).max
    table = np.zeros((len(a) + 1, len(b) + 1), np.uint16 if small else np.uint32)
    for i, word in enumerate(a):
        equal = columns == numbers.get(word, -1)
        row = np.where(equal, table[i, :-1] + 1, table[i, 1:])
        np.maximum.accumulate(row, out=table[i + 1, 1:])
    return table
