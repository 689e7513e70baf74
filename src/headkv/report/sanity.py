"""Whether a results folder can be believed: FullKV's scores, how it was asked, and what was kept.

Counts on the rows alone: a method that compressed nothing has FullKV's scores and no other sign.
"""

import pandas as pd

TASK = ["benchmark", "model", "protocol", "compress_on", "task"]
RUN = TASK[:-1]
CELL = [*TASK, "method", "granularity", "kv_size"]
_RECORDED = [
    "compress_on",
    "chat_template",
    "end_tokens",
    "truncated",
    "context_tokens",
    "stored_heads",
]
_NAMED = 5  # rows of one fault that are named


def sanity(rows: pd.DataFrame) -> tuple[str, list[str]]:
    """The report as text, and the faults apart, each with rows that show it.

    Args:
        rows: of `load_results`.
    """
    rows = with_expected(rows)
    found = faults(rows)
    told = [
        "FullKV and how it was asked",
        full_table(rows).to_string(index=False, na_rep="-") if rows["full"].any() else "none",
        "Prompts longer than the KV size, and how many were compressed",
        kept_table(rows).to_string(index=False, na_rep="-"),
    ]
    alone = without_full(rows)
    told += [f"not comparable: no FullKV rows of {name}, add fullkv to method=" for name in alone]
    if not found:
        told.append(
            "no faults: every prompt that should have been compressed was"
            + (" (as far as rows without FullKV's can tell)" if alone else "")
        )
    return "\n\n".join(told), found


def without_full(rows: pd.DataFrame) -> list[str]:
    """Benchmarks, models and the like that FullKV was never run on: no fault, and nothing to say.

    Args:
        rows: of `with_expected`.
    """
    runs = rows.groupby(RUN)["full"].any()
    return ["/".join(map(str, names)) for names in runs.index[~runs]]


def with_expected(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what they should have kept.

    `context_tokens` and `stored_heads` (lists of tokens that the budget is shared among) are the
    row's own. Rows of older versions lack both: their prompt is the context, and as many lists are
    taken as FullKV of the same granularity has.

    Returns:
        The rows and `full`: whether uncompressed. `has_full`: whether FullKV answered the same
        prompt. `run_has_full`: whether FullKV was run on the benchmark at all. `whole`: entries of
        the uncompressed cache in the row's granularity, NaN if that cannot be known. `budget`:
        entries that the KV size allows. `should`: whether the prompt is longer than the KV size.
    """
    rows = rows.reindex(columns=list(dict.fromkeys([*rows.columns, *_RECORDED])))
    rows["compress_on"] = rows["compress_on"].astype(object).fillna("prompt")
    rows["full"] = rows["kv_size"].isna()
    tokens = rows["prompt_tokens"].where(rows["compress_on"] == "prompt")
    rows["context_tokens"] = pd.to_numeric(rows["context_tokens"]).fillna(tokens)
    per_token = (rows["kept_tokens"] / rows["context_tokens"]).where(rows["full"])
    rows["stored_heads"] = pd.to_numeric(rows["stored_heads"]).fillna(per_token)
    # Layers with a sliding window keep it whole, beside what the budget is for.
    sliding = rows["kept_tokens"] - rows["context_tokens"] * rows["stored_heads"]
    about_full = rows.assign(sliding=sliding)[rows["full"]].drop_duplicates([*TASK, "id"])
    columns = ["context_tokens", "stored_heads", "granularity", "sliding"]
    beside = about_full.set_index([*TASK, "id"])[columns].add_prefix("full_")
    rows = rows.join(beside, on=[*TASK, "id"])
    rows["has_full"] = rows["full_granularity"].notna()
    rows["run_has_full"] = rows.groupby(RUN)["full"].transform("any")
    same = rows["granularity"] == rows["full_granularity"]
    heads = rows["stored_heads"].fillna(rows["full_stored_heads"].where(same))
    context = rows["context_tokens"].fillna(rows["full_context_tokens"])
    size = rows["kv_size"].astype("Float64").fillna(float("inf")).astype(float)
    fixed = rows["full_sliding"].fillna(0)
    rows["should"] = context > size
    rows["whole"] = fixed + context * heads
    rows["budget"] = fixed + context.clip(upper=size) * heads
    return rows


def full_table(rows: pd.DataFrame) -> pd.DataFrame:
    """FullKV's score of every task, with how the prompts were put."""
    return pd.DataFrame(
        {
            **dict(zip(TASK, names, strict=True)),
            "n": len(group),
            "score": round(group["score"].mean(), 2),
            "chat template": _one(group["chat_template"].map({True: "yes", False: "no"})),
            "end tokens": _one(group["end_tokens"].map(_listed, na_action="ignore")),
            "truncated %": _share(group["truncated"].astype("boolean").dropna()),
        }
        for names, group in rows[rows["full"]].groupby(TASK)
    )


def kept_table(rows: pd.DataFrame) -> pd.DataFrame:
    """For every cell how many prompts were to be compressed, were, and kept just the budget."""
    cells = rows[~rows["full"]]
    counts = cells.assign(
        compressed=cells["should"] & (cells["kept_tokens"] < cells["whole"]),
        exact=cells["should"] & (cells["kept_tokens"] == cells["budget"]),
        kept=100 * cells["kept_tokens"] / cells["whole"],
    ).groupby(CELL)
    table = counts.agg(
        n=("id", "size"),
        longer=("should", "sum"),
        compressed=("compressed", "sum"),
        exact=("exact", "sum"),
        kept=("kept", "mean"),
    ).reset_index()
    return table.rename(columns={"kept": "kept %"}).round(1)


def faults(rows: pd.DataFrame) -> list[str]:
    """What is wrong, a line for each kind of fault and cell."""
    found = []
    cells = rows[~rows["full"]]
    # What sliding layers hold beside the budget, only FullKV's rows tell.
    told = cells["run_has_full"]
    unknown = told & cells["whole"].isna()
    untouched = cells["should"] & (cells["kept_tokens"] >= cells["whole"])
    # The published code's rounding and clipping are part of `paper`.
    exact = cells["protocol"].eq("corrected") | ~cells["should"]
    other = told & exact & ~unknown & ~untouched & (cells["kept_tokens"] != cells["budget"])
    checks = [
        ("FullKV did not answer", told & ~cells["has_full"], None),
        ("not recorded what the whole prompt holds, answer again", unknown, None),
        ("NOT COMPRESSED", untouched, "whole"),
        ("kept something else than the budget", other, "budget"),
    ]
    for what, wrong, column in checks:
        for names, group in cells[wrong].groupby(CELL):
            found.append(f"{what}: {_cell(names)}: {_rows(group, column)}")
    full = rows[rows["full"]]
    lost = full["kept_tokens"] < full["context_tokens"] * full["stored_heads"]
    for names, group in full[lost].groupby(TASK):
        found.append(f"FullKV dropped tokens: {'/'.join(names)}: {_rows(group, 'whole')}")
    return found


def _cell(names: tuple[object, ...]) -> str:
    """A cell as its file is named."""
    benchmark, model, protocol, compress_on, task, method, granularity, size = names
    return f"{benchmark}/{model}/{method}/{size}/{task} ({protocol}, {granularity}, {compress_on})"


def _rows(group: pd.DataFrame, column: str | None) -> str:
    """How many rows, and the first few by name."""
    first = group.head(_NAMED)
    wanted = first[column].map("{:.0f}".format) if column else None
    names = [
        f"{id} (kept {kept}{'' if wanted is None else f', {column} {wanted.iloc[i]}'})"
        for i, (id, kept) in enumerate(zip(first["id"], first["kept_tokens"], strict=True))
    ]
    more = f" and {len(group) - len(first)} more" if len(group) > len(first) else ""
    return f"{len(group)} rows: {', '.join(names)}{more}"


def _listed(tokens: object) -> str:
    return ",".join(map(str, tokens)) if isinstance(tokens, list | tuple) else str(tokens)


def _share(flags: pd.Series) -> float | None:
    """How many are true, in %; None where no row says."""
    return round(100 * float(flags.mean()), 1) if len(flags) else None


def _one(values: pd.Series) -> str:
    """The value of all rows; all values where there are several; `?` where none is recorded."""
    return " or ".join(dict.fromkeys(values.dropna().astype(str))) or "?"
