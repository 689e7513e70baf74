"""The page as a file: its structure, what it embeds, and that no text of a data set becomes markup.

What it does in a browser: tests/browser.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headkv.records import shorten
from headkv.report.__main__ import main
from headkv.report.html import content
from headkv.report.html.content import MAX_EXAMPLES, MAX_PROMPT
from headkv.report.load import load_results

VOID = {"meta", "link", "input", "img", "br", "option"}  # option: its end tag may be left out
EVIL = "</script><script>document.title='hacked'</script><!-- <img src=x onerror=alert(1)>"
FOLDER = "needle/tiny_model"


class Page(HTMLParser):
    """A page read strictly: every element, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open = text, []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attrs, before = self.scripts[-1]
            self.scripts[-1] = (attrs, before + data)

    def data(self, kind: str) -> list[Any]:
        """The data blocks of a kind."""
        return [json.loads(text) for attrs, text in self.scripts if f"data-{kind}" in attrs]

    def values(self, attribute: str) -> list[str]:
        return [str(attrs[attribute]) for _, attrs in self.elements if attribute in attrs]


def build(root: Path) -> Page:
    assert main(["html", str(root)]) == 0
    return Page((root / "report" / "index.html").read_text(encoding="utf-8"))


def inspection(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "task": "single",
        "id": "0",
        "answers": ["a"],
        "protocol": "corrected",
        "compress_on": "prompt",
        "tokens": ["A ", EVIL, " needle"],
        "written": "now",
        "cells": [
            {
                "method": "snapkv",
                "kv_size": 64,
                "granularity": "kv_head",
                "run_key": "k",
                "kept_tokens": 1,
                "shape": [1, 1, 3],
                "kept": "eNpjAAAAAQAB",
            }
        ],
    } | changes


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def fill(needle_rows, write_rows) -> Callable[[Path], Path]:
    """Fills a folder with three cells, one of them incomplete, and a figure."""

    def fill(root: Path) -> Path:
        for method, size in (("fullkv", None), ("snapkv", 64), ("headkv_r2", 64)):
            rows = needle_rows(method, size)
            write_rows(root, method, size, rows[:7] if method == "headkv_r2" else rows)
        figure = root / "figures" / "needle_tiny_model_accuracy.png"
        figure.parent.mkdir()
        figure.write_bytes(b"\x89PNG not really")
        return root

    return fill


@pytest.fixture
def root(tmp_path: Path, fill: Callable[[Path], Path]) -> Path:
    """Such a folder, for a test to change."""
    return fill(tmp_path)


@pytest.fixture(scope="module")
def page(fill: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of such a folder, to be looked at."""
    return build(fill(tmp_path_factory.mktemp("page")))


def test_the_page_stands_alone_and_is_well_formed(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {*page.values("aria-controls"), *page.values("aria-labelledby")} <= set(ids)
    for source in (*page.values("src"), *page.values("href")):
        assert source.startswith(("data:", "#"))
        assert not source.startswith("#") or source == "#main" or source[1:] in ids
    assert "http:" not in page.text and "https:" not in page.text
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    (script,) = (text for attrs, text in page.scripts if not attrs)
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs)
    assert "default-src 'none'" in str(policy) and f"script-src 'sha256-{sha}'" in str(policy)
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_text_of_data_sets_stays_text(root: Path, make_row, write_rows) -> None:
    """Wherever a data set's or a model's text goes, it makes no element, and comes back whole."""
    clean = len(build(root).elements)
    row = {"prediction": EVIL, "answers": [EVIL], "score": 0.0}
    plain = {"prediction": "b", "answers": ["c"], "score": 0.0}
    pages = []
    for given in (plain, row):
        for method, size in (("fullkv", None), ("snapkv", 64)):
            write_rows(root, method, size, [make_row(method, size, **given)])
        write_rows(root, "headkv_r2", 64, [make_row("headkv_r2", 64, **given)])
        put(root / FOLDER / "inspect" / "single-0.json", inspection())
        record = {"command": [given["prediction"]], "config": {"a": given["prediction"]}}
        put(root / FOLDER / "run.json", record)
        pages.append(build(root))
    assert len(pages[0].elements) == len(pages[1].elements) != clean
    (examples,) = pages[1].data("examples")
    (example,) = examples["examples"]
    assert example["answers"] == [EVIL]
    assert [text for text, _ in example["given"]] == [EVIL] * 3
    assert example["prompt"] == f"A {EVIL} needle"
    (kept,) = pages[1].data("kept")
    assert kept["tokens"][1] == EVIL


def test_incomplete_cells_say_so(page: Page) -> None:
    assert "7/40 incomplete" in page.text
    partial = [attrs for tag, attrs in page.elements if tag == "tr" and attrs.get("class")]
    # One row of every table: scores, all cells, memory and the pair that cannot be tested.
    assert sorted(str(attrs["class"]) for attrs in partial) == ["partial", "some", "some", "some"]
    boxes = [attrs for tag, attrs in page.elements if attrs.get("class") == "complete"]
    assert len(boxes) == 4


def test_every_row_leads_to_its_runs(root: Path) -> None:
    cell = {"name": "snapkv", "kv_size": 64, "protocol": "corrected", "granularity": "kv_head"}
    for day in (1, 2):
        record = {
            "command": ["run_needle.py", f"seed={day}"],
            "commit": f"c0ffee{day}",
            "cells": [cell],
            "versions": {"torch": "2.13.0"},
            "started": f"2026-01-0{day}",
        }
        put(root / FOLDER / "runs" / f"{day}.json", record)
    page = build(root)
    for fact in ("run_needle.py seed=1", "c0ffee2", "torch 2.13.0"):
        assert fact in page.text
    assert page.values("href").count("#run-needle_tiny_model-1") == 1  # SnapKV's row only
    assert page.text.index("2026-01-02") < page.text.index("2026-01-01")
    assert page.text.count("not recorded</td>") == 2


def test_figures_are_embedded_and_made_if_they_are_older_than_the_rows(
    root: Path, needle_rows, write_rows
) -> None:
    encoded = base64.b64encode(b"\x89PNG not really").decode()
    assert f'src="data:image/png;base64,{encoded}"' in build(root).text
    write_rows(root, "snapkv", 128, needle_rows("snapkv", 128))
    page = build(root)
    assert encoded not in page.text
    assert [tag for tag, _ in page.elements].count("img") == 3  # accuracy, bytes and heatmap


def test_the_page_is_bounded_and_says_what_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, make_row, write_rows
) -> None:
    rows = [make_row("snapkv", 64, id=f"{i:03}") for i in range(MAX_EXAMPLES + 5)]
    write_rows(root, "snapkv", 64, rows, task="long")
    prompts = [{"task": "long", "id": f"{i:03}", "prompt": "x" * 50_000} for i in range(3)]
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    (root / FOLDER / "prompts.ndjson").write_text(lines + '{"task": "long", "id": "0')
    monkeypatch.setattr(content, "MAX_INSPECTED", 2)
    for i in range(3):
        put(root / FOLDER / "inspect" / f"{i}.json", inspection(id=str(i)))
    put(root / FOLDER / "inspect" / "older.json", inspection(format=0))
    page = build(root)
    (examples,) = page.data("examples")
    long = [example for example in examples["examples"] if example["task"] == "long"]
    assert len(long) == MAX_EXAMPLES and examples["left_out"] == {"long": 5}
    assert len(long[0]["prompt"]) < MAX_PROMPT + 100
    assert "44,000 characters left out" in long[0]["prompt"]
    assert long[3]["prompt"] is None
    (inspected,) = page.data("inspected")
    assert len(inspected["examples"]) == len(page.data("kept")) == 2
    assert inspected["left_out"] == 2


def test_shortening_keeps_both_ends() -> None:
    text = "a" * 30 + "b" * 30
    assert shorten(text, 60) == text
    assert shorten(text, 20).startswith("a" * 10 + "\n[") and shorten(text, 20).endswith("b" * 10)


def test_answers_are_those_of_the_rows(root: Path) -> None:
    rows = load_results(root)
    found = content.examples_of(rows, {})
    for example in found["examples"]:
        for cell, given in zip(found["cells"], example["given"], strict=True):
            same = rows[(rows["id"] == example["id"]) & (rows["method"] == cell["method"])]
            assert given == (None if same.empty else ["a", same["score"].item()])
    assert sum(given is None for e in found["examples"] for given in e["given"]) == 33


def test_the_same_results_give_the_same_bytes(root: Path) -> None:
    put(root / FOLDER / "inspect" / "single-0.json", inspection())
    assert build(root).text == build(root).text


def test_best_cells_are_marked_as_in_the_tables(root: Path, needle_rows, write_rows) -> None:
    write_rows(root, "headkv_r2", 64, needle_rows("headkv_r2", 64))
    page = build(root)
    (line,) = [
        line for line in page.text.splitlines() if "<strong>" in line and ">HeadKV-R2" in line
    ]
    assert 'class="star"' in line and "Bold and ★: the best" in page.text


def test_the_page_opens_on_real_results_and_warns_of_samples(
    root: Path, write_rows, make_row
) -> None:
    write_rows(root, "snapkv", 64, [make_row("snapkv", 64)], benchmark="longbench_sample")
    page = build(root)
    options = [attrs.get("value") for tag, attrs in page.elements if tag == "option"]
    assert options[:2] == ["needle_tiny_model", "longbench_sample_tiny_model"]
    (banner,) = [attrs for _, attrs in page.elements if attrs.get("class") == "banner"]
    assert banner["data-group"] == "longbench_sample_tiny_model"
    assert page.text.count("SAMPLE ROWS: scores mean nothing") >= 4  # and in every table's title


def test_figures_come_with_a_dark_copy_a_pdf_and_their_numbers(root: Path) -> None:
    for path in (root / "figures").iterdir():
        path.unlink()
    page = build(root)
    others = page.data("others")
    assert len(others) == 3 and all(set(each) == {"dark", "pdf"} for each in others)
    assert all(each["pdf"].startswith("data:application/pdf;base64,") for each in others)
    (numbers,) = page.data("csv")
    assert numbers.splitlines()[0].startswith(
        "method,protocol,granularity,compress_on,kv_size,task"
    )


def test_the_question_is_a_column_of_every_table(page: Page) -> None:
    heads = page.text.count("<thead>")
    assert heads == 4 == page.text.count('<button type="button">Question</button>')
