"""HeadKV's Table 1 beside measured rows."""

from pathlib import Path

import pandas as pd
import pytest

from headkv.report.load import load_results
from headkv.report.published import LONGBENCH, LOOGLE, headkv_table1
from headkv.report.tables.results import write_tables


def test_published_figures_stand_beside_measured_ones(
    tmp_path: Path, qa_row, put_rows, read_table
) -> None:
    for benchmark, tasks in (("longbench", LONGBENCH), ("loogle", LOOGLE)):
        for task in tasks:
            put_rows(
                tmp_path, f"{benchmark}/snapkv/128/{task}", [qa_row(i, 30.0, 128) for i in range(3)]
            )
    put_rows(tmp_path, "longbench/adakv/128/qasper", [qa_row(i, 30.0, 128) for i in range(2)])
    put_rows(tmp_path, "longbench/snapkv/128/trec", [qa_row(i, 0.0, 128) for i in range(3)])
    write_tables(load_results(tmp_path), tmp_path)
    numbers = pd.read_csv(tmp_path / "tables/table1_llama3_8b.csv")
    numbers = numbers.set_index(["benchmark", "method", "task"])
    line = numbers.loc[("longbench", "snapkv", "qasper")]
    assert (line["published"], line["difference"]) == (15.79, pytest.approx(14.21))
    assert numbers.loc[("longbench", "snapkv", "all"), "published"] == 26.43  # without trec
    assert numbers.loc[("loogle", "snapkv", "all"), "published"] == 6.29
    assert pd.isna(numbers.loc[("longbench", "adakv", "qasper"), "difference"])
    lines = read_table(tmp_path, "table1_llama3_8b.md").splitlines()
    ada, snap = (
        next(i for i, line in enumerate(lines) if line.startswith(f"| {name}"))
        for name in ("Ada-KV", "SnapKV")
    )
    assert "2/3" in lines[ada]
    assert "22.11 | 15.79" in lines[snap + 1]
    assert "+7.89 | +14.21" in lines[snap + 2]


def test_published_averages_are_those_of_their_tasks() -> None:
    for model in ("llama3_8b", "mistral_7b_v02"):
        table = headkv_table1(model).assign(kv_size=lambda t: t["kv_size"].fillna(0))
        wide = table.pivot(index=["method", "kv_size"], columns="task", values="score")
        assert len(wide) == 11
        for tasks, average in ((LONGBENCH, "longbench_avg"), (LOOGLE, "loogle_avg")):
            assert (wide[list(tasks)].mean(axis=1) - wide[average]).abs().max() < 0.011
    assert headkv_table1("smollm2_135m").empty
