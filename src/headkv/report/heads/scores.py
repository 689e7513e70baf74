"""Head scores in numbers: which heads lead, how stable the scores are, what two kinds share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from headkv.errors import UserError
from headkv.storage.head_scores import best_heads, mean_scores, read_scores

Floats = NDArray[np.float64]
TOP = 20  # heads that count as a file's best where one number is asked for
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class ScoreFile:
    """The scores of one file.

    Attributes:
        name: for tables, figures and file names.
        kind: from the header; empty in a published file.
        mean: `[layer, query_head]`.
        tests: `[layer, query_head, test]`, the tests that counted.
    """

    name: str
    kind: str
    mean: Floats = field(repr=False)
    tests: Floats = field(repr=False)

    @property
    def share(self) -> Floats:
        """Each head's share of all scores, `[layer, query_head]`."""
        return self.mean / max(float(self.mean.sum()), 1e-300)


def read_score_file(path: str | Path, model: str = "") -> ScoreFile:
    """Reads a score file of either shape.

    Args:
        path: the file.
        model: a name that need not be repeated in the file's own.

    Raises:
        UserError: not a score file, or heads with different numbers of tests.
    """
    header, lists = read_scores(path)
    mean = mean_scores(lists)
    counts = {len(values) for values in lists.values()}
    if len(counts) > 1:
        raise UserError(
            f"{path} has from {min(counts)} to {max(counts)} scores a head",
            allowed="one score a head and test",
            do="give another file",
        )
    tests = np.zeros((*mean.shape, counts.pop()))
    for key, values in lists.items():
        tests[key] = values
    name = Path(path).stem.removeprefix(f"{model}_")
    return ScoreFile(name, str(header.get("kind", "")), mean, tests)


def summary(files: Sequence[ScoreFile]) -> pd.DataFrame:
    """How many tests counted, and on how few heads the scores lie.

    Returns:
        One line a file: `file`, `kind`, `heads`, `tests`, `zero` (heads that never scored), `half`
        and `most` (best heads that hold 50 % and 90 % of all scores).
    """
    lines = []
    for file in files:
        held = np.cumsum(np.sort(file.share.ravel())[::-1])
        lines.append(
            {
                "file": file.name,
                "kind": file.kind,
                "heads": file.mean.size,
                "tests": file.tests.shape[2],
                "zero": int((file.mean == 0).sum()),
                "half": int(np.searchsorted(held, 0.5 - 1e-12) + 1),
                "most": int(np.searchsorted(held, 0.9 - 1e-12) + 1),
            }
        )
    return pd.DataFrame(lines)


def top_heads(files: Sequence[ScoreFile]) -> pd.DataFrame:
    """All heads by rank: `file`, `rank` from 1, `layer`, `head`, `score`, `share`."""
    return pd.DataFrame(
        [
            {
                "file": file.name,
                "rank": rank,
                "layer": layer,
                "head": head,
                "score": float(file.mean[layer, head]),
                "share": float(file.share[layer, head]),
            }
            for file in files
            for rank, (layer, head) in enumerate(best_heads(file.mean), 1)
        ]
    )


def stability(file: ScoreFile, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Agreement of the scores of two halves that share no test, by their size.

    Args:
        file: the scores.
        draws: random pairs of halves for each size.
        seed: of the halves.

    Returns:
        One line a size: `file`, `tests` (of a half), and for `pearson` and `spearman` over heads
        and `top` (share of the `TOP` best heads in common) the mean over the draws and, with
        `_low` and `_high`, the middle 95 % of them; `full` is the Pearson correlation that two
        files of all tests would have by Spearman-Brown, 2r / (1 + r), in the line of the largest
        halves. Halves in which all heads score the same correlate with nothing: 0.
    """
    values = file.tests.reshape(-1, file.tests.shape[2])
    largest = values.shape[1] // 2
    sizes = [step for step in STEPS if step < largest] + ([largest] if largest else [])
    rng, lines = np.random.default_rng(seed), []
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "pearson": correlation,
        "spearman": rank_correlation,
        "top": lambda a, b: len(_best(a, TOP) & _best(b, TOP)) / min(TOP, len(a)),
    }
    for size in sizes:
        found: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(draws):
            order = rng.permutation(values.shape[1])
            halves = [values[:, part].mean(1) for part in (order[:size], order[size : 2 * size])]
            for name, measure in measures.items():
                found[name].append(measure(*halves))
        line: dict[str, Any] = {"file": file.name, "tests": size}
        for name, drawn in found.items():
            low, high = np.quantile(drawn, [0.025, 0.975])
            line |= {name: float(np.mean(drawn)), f"{name}_low": low, f"{name}_high": high}
        r = line["pearson"]
        line["full"] = 2 * r / (1 + r) if size == largest else float("nan")
        lines.append(line)
    return pd.DataFrame(lines)


def overlap(files: Sequence[ScoreFile], counts: Sequence[int] = (10, 20, 30, 50)) -> pd.DataFrame:
    """What each pair of files agrees on.

    Args:
        files: of one model.
        counts: how many of the best heads to compare.

    Returns:
        One line a pair and count: `first`, `second`, `k`, `shared` (of each file's k best heads),
        `chance` (shared by two random choices), `pearson` and `spearman` of all heads' scores.
        Files of other shapes are not compared.
    """
    lines = []
    for one, two in combinations(files, 2):
        if one.mean.shape != two.mean.shape:
            continue
        a, b = one.mean.ravel(), two.mean.ravel()
        both: dict[str, Any] = {"pearson": correlation(a, b), "spearman": rank_correlation(a, b)}
        for k in sorted({min(count, len(a)) for count in counts}):
            shared = len(_best(a, k) & _best(b, k))
            pair = {"first": one.name, "second": two.name, "k": k}
            lines.append({**pair, "shared": shared, "chance": k * k / len(a), **both})
    columns = ["first", "second", "k", "shared", "chance", "pearson", "spearman"]
    return pd.DataFrame(lines, columns=columns)


def correlation(one: Floats, two: Floats) -> float:
    """Pearson's correlation; 0 where one side does not vary.

    Args:
        one: scores, one a head.
        two: scores of the same heads.
    """
    a, b = one - one.mean(), two - two.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def rank_correlation(one: Floats, two: Floats) -> float:
    """Spearman's correlation, equal scores sharing a rank; 0 where one side does not vary.

    Args:
        one: scores, one a head.
        two: scores of the same heads.
    """
    return correlation(rankdata(one), rankdata(two))


def _best(values: Floats, count: int) -> set[int]:
    return set(np.argsort(-values, kind="stable")[:count].tolist())
