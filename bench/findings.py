"""docs/findings.md, every number of it, from what is committed in results/findings.

    make findings

Tests are paired, example by example: exact McNemar where scores are hits and misses, else a
permutation test of signs; divergences are tested by permutation. One Holm correction over all of
the protocol's tests.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd

from bench.findings_rows import FOLDER, INDEX
from headkv.config import ROOT
from headkv.report.stats.intervals import Sample, bootstrap_ci, mean_ci
from headkv.report.stats.significance import (
    discordant,
    holm,
    is_hit_or_miss,
    mcnemar,
    permutation_tests,
)
from headkv.storage.atomic import write_bytes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TEMPLATE = Path(__file__).with_suffix(".md.j2")
OUT = ROOT / "docs" / "findings.md"
RESAMPLES = 20_000
LEVEL = 0.01


@dataclass(frozen=True)
class Protocol:
    """What results/findings/protocol.json fixes before the run.

    Attributes:
        own: the method that is tested.
        baselines: method -> its name in tables; the tests are own against each of these.
        others: method -> name of cells that are shown and not tested: ablations and controls.
        benchmarks: benchmark -> its name in tables.
        sizes: KV sizes.
    """

    own: str
    baselines: Mapping[str, str]
    others: Mapping[str, str]
    benchmarks: Mapping[str, str]
    sizes: Sequence[int]

    @property
    def names(self) -> dict[str, str]:
        """Every method's name in tables, in their order."""
        own = {self.own: "**ClauseKV**"}
        return {"fullkv": "FullKV", **self.baselines, **own, **self.others}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report and its figures."""
    parser = argparse.ArgumentParser(prog="bench.findings", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    fixed = json.loads((given.folder / "protocol.json").read_text())
    names = Protocol(**{key: fixed[key] for key in Protocol.__dataclass_fields__})
    rows = {
        benchmark: pd.read_csv(path, index_col=INDEX, dtype={"id": str})
        for benchmark in names.benchmarks
        if (path := given.folder / "rows" / f"{benchmark}.csv").is_file()
    }
    tests = tested(rows, names)
    draw(rows, names, given.out.parent / "images" / "findings.svg")
    extra = {
        path.stem: json.loads(path.read_text()) for path in sorted(given.folder.glob("*.json"))
    }
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    text = template.render(
        names=names,
        rows=rows,
        tests=tests,
        extra=extra,
        results_of=lambda benchmark: results_table(rows, names, benchmark),
        verdicts=lambda: tests_table(tests, names),
        fails=lambda: failures(tests, names),
        counted=lambda baseline, question: counted(tests, baseline, question),
        n_of=lambda benchmark: int(tests[tests["benchmark"] == benchmark]["n"].max()),
        own_cost=lambda: cost_of(extra["cost"], names.own),
    )
    write_bytes(given.out, text.strip().encode() + b"\n")
    return 0


def column(method: str, size: int, measure: str) -> str:
    """A cell's column; the full cache has one size."""
    return f"{method}@{'full' if method == 'fullkv' else size}:{measure}"


def by_task(values: pd.Series) -> Sample:
    """Values by task, NaN left out: an answer of one token has no divergence."""
    parts = [part.to_numpy(dtype=float) for _, part in values.dropna().groupby(level="task")]
    return Sample(parts)


def mean_of(
    rows: Mapping[str, pd.DataFrame],
    benchmark: str,
    question: str,
    method: str,
    size: int,
    what: str,
) -> float:
    """A cell's mean over tasks; NaN where it was not run."""
    table = rows[benchmark].xs(question, level="question")
    name = column(method, size, what)
    return by_task(table[name]).mean if name in table and table[name].notna().any() else np.nan


def tested(rows: Mapping[str, pd.DataFrame], names: Protocol) -> pd.DataFrame:
    """A line a benchmark, question, KV size, baseline and measure: own minus baseline."""
    lines: list[dict[str, Any]] = []
    permuted: dict[int, Sample] = {}
    for benchmark, table in rows.items():
        cases = product(("seen", "unseen"), names.sizes, names.baselines, ("score", "kl"))
        for question, size, baseline, measure in cases:
            part = table.xs(question, level="question")
            both = [column(method, size, measure) for method in (names.own, baseline)]
            pair = part[both].dropna()
            first, second = (pair[name].to_numpy(dtype=float) for name in both)
            sample = by_task(pair[both[0]] - pair[both[1]])
            better, worse = discordant(first, second)
            line = {"benchmark": benchmark, "question": question, "size": size}
            line |= {"baseline": baseline, "measure": measure, "n": len(pair)}
            line |= {"difference": sample.mean, "higher": better, "lower": worse}
            if measure == "score" and is_hit_or_miss(first) and is_hit_or_miss(second):
                line["p"] = mcnemar(first, second)
            else:
                permuted[len(lines)] = sample
            lines.append(line)
    found = permutation_tests(list(permuted.values()), resamples=RESAMPLES)
    for place, p in zip(permuted, found, strict=True):
        lines[place]["p"] = p
    frame = pd.DataFrame(lines)
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=float))
    gain = np.where(frame["measure"] == "kl", -frame["difference"], frame["difference"])
    sure = frame["p_holm"] < LEVEL
    frame["verdict"] = np.where(sure & (gain > 0), "better", np.where(sure, "worse", "open"))
    return frame


def results_table(rows: Mapping[str, pd.DataFrame], names: Protocol, benchmark: str) -> str:
    """Score and divergence of every method on a benchmark, a Markdown table: `score / KL`."""
    heads = [(question, size) for question in ("seen", "unseen") for size in names.sizes]
    lines = ["| | " + " | ".join(f"{q}, KV {size}" for q, size in heads) + " |"]
    lines.append("|:--|" + "--:|" * len(heads))
    for method, name in names.names.items():
        cells = []
        for question, size in heads:
            score, kl = (
                mean_of(rows, benchmark, question, method, size, what) for what in ("score", "kl")
            )
            cells.append("-" if np.isnan(score) else f"{score:.0f} / {kl:.2f}")
        if set(cells) != {"-"}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(tests: pd.DataFrame, names: Protocol) -> str:
    """What is not shown to be better, a Markdown list: a line a benchmark and way of asking."""
    lines = []
    for (benchmark, question), part in tests.groupby(["benchmark", "question"], sort=False):
        told = []
        for verdict in ("worse", "open"):
            for measure, name in (("score", "score"), ("kl", "KL")):
                left = part[(part["verdict"] == verdict) & (part["measure"] == measure)]
                against = [
                    f"{names.baselines[each['baseline']]} at {each['size']}"
                    for _, each in left.iterrows()
                ]
                if against:
                    told.append(f"{verdict} in {name} against {', '.join(against)}")
        text = "; ".join(told) or "nowhere: better in every test"
        lines.append(f"- {names.benchmarks[benchmark]}, question {question}: {text}.")
    return "\n".join(lines)


def tests_table(tests: pd.DataFrame, names: Protocol) -> str:
    """Own minus baseline with the corrected p, a Markdown table."""
    lines = ["| | question | KV | " + " | ".join(names.baselines.values()) + " |"]
    lines.append("|:--|:--|--:|" + ":--|" * len(names.baselines))
    for (benchmark, question, size), part in tests.groupby(
        ["benchmark", "question", "size"], sort=False
    ):
        cells = []
        for baseline in names.baselines:
            pair = part[part["baseline"] == baseline].set_index("measure")
            cells.append(f"{one(pair.loc['score'], '+.0f')}; {one(pair.loc['kl'], '+.2f')}")
        head = f"| {names.benchmarks[benchmark]} | {question} | {size} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def one(test: pd.Series, form: str) -> str:
    """A difference, marked where it is sure: bold if better, struck out if worse."""
    text = f"{test['difference']:{form}}"
    mark = {"better": "**", "worse": "~~", "open": ""}[test["verdict"]]
    return f"{mark}{text}{mark}"


def counted(tests: pd.DataFrame, baseline: str, question: str) -> str:
    """How many tests against a baseline are better, open and worse."""
    part = tests[(tests["baseline"] == baseline) & (tests["question"] == question)]
    return " / ".join(str((part["verdict"] == each).sum()) for each in ("better", "open", "worse"))


def cost_of(cost: Mapping[str, Any], own: str) -> dict[str, float]:
    """Compression as per cent of the prefill: the own method's, and by name the others'."""
    percent = {line["method"]: line["percent"] for line in cost["methods"]}
    return percent | {"percent": percent[own]}


def draw(rows: Mapping[str, pd.DataFrame], names: Protocol, path: Path) -> None:
    """Divergence and score by method, a panel a benchmark and question, at the smallest size."""
    size = names.sizes[0]
    methods = [*names.baselines, names.own]
    figure, axes = plt.subplots(
        2, 2 * len(rows), figsize=(3 * len(rows) + 3, 4.6), sharey="row", layout="constrained"
    )
    panels = [(b, q) for b in rows for q in ("seen", "unseen")]
    for place, (benchmark, question) in enumerate(panels):
        table = rows[benchmark].xs(question, level="question")
        for line, (measure, interval) in enumerate((("score", mean_ci), ("kl", bootstrap_ci))):
            samples = [by_task(table[column(each, size, measure)]) for each in methods]
            ends = np.array([interval(sample.groups) for sample in samples])
            means = np.array([sample.mean for sample in samples])
            axis = axes[line, place]
            colours = ["#D55E00" if each == names.own else "#999999" for each in methods]
            error = np.abs(ends.T - means)
            axis.bar(range(len(methods)), means, color=colours, yerr=error, ecolor="#333333")
            axis.set_xticks(range(len(methods)), [])
            if line == 0:
                axis.set_title(f"{names.benchmarks[benchmark]}, {question}", fontsize=9)
            else:
                labels = [names.names[each].strip("*") for each in methods]
                axis.set_xticks(range(len(methods)), labels, rotation=60, ha="right", fontsize=7)
            if place == 0:
                axis.set_ylabel("score" if line == 0 else "KL, nats a token")
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "findings"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
