"""Scores of one answer. One file, one family; the benchmarks' own files put them together.

Plain text in, numbers out: no torch, no files, no averaging over examples. The functions of one
prediction and one answer return fractions from 0 to 1; `score` of `longbench`, `loogle` and
`babilong` returns what a result row holds, 0 to 100. Libraries load when they are first needed.

`protocol=paper` scores as the benchmarks' own code does, `corrected` as it should have:
docs/parity.md lists every difference.
"""

from headkv.metrics.rouge import Rouge, rouge1
from headkv.metrics.text import best_over, contains, normalise_answer, qa_f1

__all__ = ["Rouge", "best_over", "contains", "normalise_answer", "qa_f1", "rouge1"]
