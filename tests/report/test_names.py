"""How methods are shown: by their yaml, and strangers as themselves."""

from headkv.report.names import method_name


def test_method_names() -> None:
    assert method_name("headkv_r2") == "HeadKV-R2"
    assert method_name("headkv_r2_permuted") == "HeadKV-R2 (permuted)"
    assert method_name("snapkv", "paper", "query_head") == "SnapKV (paper, query head)"
    assert method_name("snapkvx") == "snapkvx"
