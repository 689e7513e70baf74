"""Which rows are kept apart from one another."""

from pathlib import Path

from headkv.report.groups import by_model
from headkv.report.load import load_results


def test_context_rows_never_mix_with_prompt_rows(tmp_path: Path, qa_row, put_rows) -> None:
    put_rows(tmp_path, "needle/snapkv/64/single", [qa_row(0, 100.0)])
    context = [qa_row(0, 0.0, compress_on="context")]
    put_rows(tmp_path, "needle/snapkv/64/single@corrected-kv_head-context", context)
    means = {key: part["score"].tolist() for key, part in by_model(load_results(tmp_path))}
    assert means == {("needle", "llama3_8b"): [100.0], ("needle", "llama3_8b@context"): [0.0]}
