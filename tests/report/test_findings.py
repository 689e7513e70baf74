"""The report's tables and verdicts from rows made up so that the answer is known."""

import json
from pathlib import Path

import pandas as pd

from bench import findings
from bench.findings_rows import INDEX, wide

N = 40
NAMES = {
    "own": "own",
    "baselines": {"weak": "Weak", "equal": "Equal", "strong": "Strong"},
    "others": {"own_less": "less"},
    "benchmarks": {"needle": "Needle"},
    "sizes": [64],
}


def made_up() -> pd.DataFrame:
    """Own hits everything but the last two of each task; `weak` nothing, `strong` all."""
    lines = []
    for question in ("seen", "unseen"):
        for task in ("a", "b"):
            for number in range(N):
                hit = 100.0 * (number < N - 2)
                line = {"question": question, "task": task, "id": str(number)}
                scores = {"own": hit, "weak": 0.0, "equal": hit, "strong": 100.0}
                kl = {"own": 0.2, "weak": 0.5, "equal": 0.2, "strong": 0.1}
                line |= {f"{name}@64:score": value for name, value in scores.items()}
                line |= {f"{name}@64:kl": value + 0.001 * number for name, value in kl.items()}
                lines.append(line | {"fullkv@full:score": 100.0, "fullkv@full:kl": 0.0})
    return pd.DataFrame(lines).set_index(INDEX)


def test_verdicts_are_those_of_the_tests() -> None:
    names = findings.Protocol(**NAMES)  # type: ignore[arg-type]
    tests = findings.tested({"needle": made_up()}, names)
    verdicts = tests.set_index(["question", "baseline", "measure"])["verdict"]
    assert len(tests) == 2 * 3 * 2
    assert set(verdicts.xs("weak", level="baseline")) == {"better"}
    assert set(verdicts.xs("equal", level="baseline")) == {"open"}
    strong = verdicts.xs("strong", level="baseline").xs("seen", level="question")
    assert strong.to_dict() == {"score": "open", "kl": "worse"}  # 4 misses of 80 show nothing
    assert tests["n"].eq(2 * N).all() and (tests["p_holm"] >= tests["p"]).all()
    told = findings.failures(tests, names)
    assert "question seen: worse in KL against Strong at 64; open in score against Equal" in told
    assert "**+95**; **-0.30**" in findings.tests_table(tests, names)
    table = findings.results_table({"needle": made_up()}, names, "needle")
    assert "| Weak | 0 / 0.52 | 0 / 0.52 |" in table and "less" not in table


def test_rows_become_a_column_a_cell_and_measure() -> None:
    rows = pd.DataFrame(
        {
            "task": "single",
            "id": ["1", "1", "2", "2"],
            "method": ["snapkv", "fullkv"] * 2,
            "kv_size": pd.array([64, None] * 2, dtype="Int64"),
            "compress_on": "context",
            "score": [0.0, 100.0, 100.0, 100.0],
            "fidelity": [{"kl": each, "reference_logprob": -1.0} for each in (0.25, 0, None, 0)],
        }
    )
    table = wide(rows)
    assert list(table.index) == [("unseen", "single", "1"), ("unseen", "single", "2")]
    assert table["snapkv@64:score"].tolist() == [0, 100]
    assert table["snapkv@64:kl"].isna().tolist() == [False, True]
    assert table["fullkv@full:logprob"].tolist() == [-1, -1]


def test_the_report_is_what_the_committed_rows_say(tmp_path: Path) -> None:
    assert findings.OUT.exists() == (findings.FOLDER / "rows").is_dir()
    if not findings.OUT.exists():  # fixed, and not yet run to its end
        return
    assert findings.main(["--out", str(tmp_path / "findings.md")]) == 0
    assert (tmp_path / "findings.md").read_text() == findings.OUT.read_text()
    fixed = json.loads((findings.FOLDER / "protocol.json").read_text())
    assert set(fixed["benchmarks"]) >= {"needle"}
