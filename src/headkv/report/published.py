"""Figures that papers print, to stand beside measured ones."""

import pandas as pd

from headkv.config import DATA

TABLE1 = DATA / "published" / "headkv_table1.csv"
# HeadKV's columns, in its order; each group has an average of its own.
LONGBENCH = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique")
LOOGLE = (
    "comprehension_and_reasoning",
    "multiple_information_retrieval",
    "timeline_reorder",
    "computation",
)


def headkv_table1(model: str) -> pd.DataFrame:
    """Table 1 of HeadKV (arXiv 2410.19258) for a model, by its name in `conf/model`.

    Returns:
        `method`, `kv_size` (<NA>: the full cache), `task` (with `longbench_avg`, `loogle_avg`),
        `score`. No lines for a model that the paper has not measured.
    """
    table = pd.read_csv(TABLE1, comment="#", dtype={"kv_size": "Int64"})
    return table[table["model"] == model].drop(columns="model")
