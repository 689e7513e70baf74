"""The report in a real headless Chromium: `make test-browser`.

Not part of the suite, which needs no browser. Takes the Chromium of the system if it has one, else
the one of `python -m playwright install chromium-headless-shell`.
"""

import base64
import json
import shutil
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from headkv.report.__main__ import main
from headkv.report.leaderboard.__main__ import main as leaderboard

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
EVIL = "</script><script>document.title='bad'</script><img src=x onerror=document.title='bad'>"
SETTING = {"protocol": "corrected", "granularity": "kv_head"}
TABS = ("results", "figures", "examples", "kept", "runs")
LONG = (32, 32, 8192)  # layers, heads, tokens


def kept_bits(shape: tuple[int, int, int], size: int, seed: int) -> np.ndarray:
    """Random kept tokens, first and last ones always among them, some heads with many more."""
    rng = np.random.default_rng(seed)
    layers, heads, tokens = shape
    bits = rng.random(shape) < (rng.random((layers, heads, 1)) ** 4 * 5 * size / tokens)
    bits[..., 0] = bits[..., -8:] = True
    return bits


def cell(method: str, size: int | None, bits: np.ndarray) -> dict[str, Any]:
    packed = zlib.compress(np.packbits(bits, axis=-1, bitorder="little").tobytes())
    return {
        "method": method,
        "kv_size": size,
        "granularity": "kv_head",
        "run_key": "k",
        "kept_tokens": int(bits.sum()),
        "shape": bits.shape,
        "kept": base64.b64encode(packed).decode(),
    }


def inspection(id: str, words: list[str], cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": 1,
        "task": "single",
        "id": id,
        "answers": ["secret 42"],
        "protocol": "corrected",
        "compress_on": "prompt",
        "tokens": words,
        "written": "",
        "cells": cells,
    }


SHORT = (3, 2, 21)
BITS = {("snapkv", 64): kept_bits(SHORT, 4, 1), ("snapkv", 128): kept_bits(SHORT, 8, 2)}
BITS["adakv", 64] = kept_bits(SHORT, 4, 3)
WORDS = [EVIL, "\n", *(f"word{i} " for i in range(8)), "secret", " 42", ".\n", *"abcdefgh"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, make_row, needle_rows, write_rows) -> str:
    root = tmp_path_factory.mktemp("results")
    for method, size in (("fullkv", None), ("snapkv", 64), ("snapkv", 128), ("adakv", 64)):
        rows = needle_rows(method, size)
        rows += [
            make_row(
                method, size, id="evil", prediction=EVIL, answers=[EVIL], length=1024, depth=0.5
            )
        ]
        write_rows(root, method, size, rows[:9] if (method, size) == ("snapkv", 128) else rows)
    write_rows(root, "snapkv", 64, [make_row("snapkv", 64)], benchmark="other")
    folder = root / "needle" / "tiny_model"
    record = {
        "command": ["run_needle.py"],
        "commit": "c0ffee",
        "started": "2026",
        "versions": {},
        "cells": [{"name": "snapkv", "kv_size": 64} | SETTING],
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "inspect").mkdir()
    short = [cell(*key, bits) for key, bits in BITS.items()]
    short.insert(0, cell("fullkv", None, np.ones(SHORT, dtype=bool)))
    (folder / "inspect" / "a.json").write_text(json.dumps(inspection("evil", WORDS, short)))
    words = [f"w{i}" + ("\n" if i % 12 == 11 else " ") for i in range(LONG[2])]
    long = [
        cell(m, size, kept_bits(LONG, size, size))
        for m in ("snapkv", "adakv")
        for size in (128, 1024)
    ]
    (folder / "inspect" / "b.json").write_text(json.dumps(inspection("long", words, long)))
    assert main(["html", str(root)]) == 0
    return f"file://{root}/report/index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The opened page; it must not complain, ask for anything, or let a text run."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:"))
            else faults.append(f"request: {request.url}")
        ),
    )
    page.goto(address)
    yield page
    assert page.title() == "HeadKV-Bench report"
    assert faults == []
    context.close()


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab-{name}")
    assert page.is_visible(f"#part-{name}")


def levels(page: Page) -> list[int]:
    return page.eval_on_selector_all("#kept-text span", "all => all.map((span) => +span.dataset.l)")


def settle(page: Page) -> None:
    page.evaluate("() => new Promise((done) => setTimeout(done, 100))")


def test_every_tab_opens_and_the_address_names_it(page: Page, address: str) -> None:
    for name in TABS:
        open_tab(page, name)
        assert page.url.endswith(f"#{name}")
        assert [t for t in TABS if page.is_visible(f"#part-{t}")] == [name]
    page.reload()
    assert page.is_visible("#part-runs")


def test_columns_sort_both_ways_with_missing_numbers_last(page: Page) -> None:
    table = page.locator("[data-group='needle_tiny_model'] table").nth(1)
    score = table.locator("th", has_text="Score")
    orders = []
    for direction in ("ascending", "descending"):
        score.locator("button").click()
        assert score.get_attribute("aria-sort") == direction
        texts = table.locator("tbody td:nth-child(6)").all_text_contents()
        assert texts[-1] == "-"  # the incomplete cell
        orders.append([float(text.removesuffix(" ★")) for text in texts[:-1]])
    assert orders[0] == sorted(orders[0]) and orders[1] == sorted(orders[1], reverse=True)
    table.locator("th button").first.press("Enter")
    names = table.locator("tbody td:first-child").all_text_contents()
    assert names == sorted(names)


def test_rows_filter(page: Page) -> None:
    box = page.locator(".sortable").nth(1)
    box.locator("input[type=search]").fill("SnapKV 64")
    assert box.locator("tbody tr:visible").count() == 1
    assert box.locator("output").text_content() == "1 of 4 rows"
    box.locator("input[type=search]").fill("")
    assert box.locator("tbody tr:visible").count() == 4


def test_a_row_leads_to_its_run(page: Page) -> None:
    page.click("a[href='#run-needle_tiny_model-1']")
    page.wait_for_selector("text=c0ffee")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_another_benchmark_can_be_chosen(page: Page) -> None:
    page.select_option("#group", "other_tiny_model")
    assert page.is_visible("h2:text-is('other, tiny_model')")
    open_tab(page, "kept")
    assert "headkv inspect results/other/tiny_model" in page.text_content("#kept-none")
    open_tab(page, "examples")
    assert page.text_content("#ex-count") == "1 of 1 examples"


def test_examples_are_found_by_disagreement_and_by_text(page: Page) -> None:
    open_tab(page, "examples")
    page.select_option("#ex-size", "KV 64")
    everything = page.locator("#ex-list > div").count()
    page.check("#ex-differ")
    differing = page.locator("#ex-list > div").count()
    assert 0 < differing < everything == 41
    for place in range(differing):
        page.locator("#ex-list > div").nth(place).click()
        marks = {text[0] for text in page.locator(".card .score").all_text_contents()}
        assert marks == {"\u2713", "\u2717"}
    page.uncheck("#ex-differ")
    page.fill("#ex-search", "onerror")
    assert page.locator("#ex-list > div").all_text_contents()[0].startswith("evil")
    assert page.text_content(".card pre") == EVIL
    assert page.text_content("pre.prompt") == "".join(WORDS)
    page.click("text=Show kept tokens")
    assert page.is_visible("#kept-text") and page.text_content("#kept-text") == "".join(WORDS)
    assert EVIL in page.text_content("#kept-answer")


def test_examples_by_keyboard(page: Page) -> None:
    open_tab(page, "examples")
    page.focus("#ex-list")
    first = page.text_content("#ex-detail h2")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#ex-detail h2") != first
    page.keyboard.press("End")
    chosen = page.get_attribute("#ex-list", "aria-activedescendant")
    assert page.get_attribute(f"#{chosen}", "aria-selected") == "true"
    assert chosen == f"ex-{page.locator('#ex-list > div').count() - 1}"


def test_tokens_are_coloured_as_the_heads_kept_them(page: Page) -> None:
    open_tab(page, "kept")
    for (method, size), bits in BITS.items():
        page.select_option("#kept-method", {"snapkv": "SnapKV", "adakv": "Ada-KV"}[method])
        settle(page)
        page.select_option("#kept-size", f"KV {size}")
        settle(page)
        page.click("#heat .all")
        shown = levels(page)
        counts = bits.sum((0, 1))
        assert [level > 0 for level in shown] == (counts > 0).tolist()
        for i in range(len(shown)):  # more heads are never a paler colour
            assert all(shown[i] <= shown[j] for j in np.flatnonzero(counts >= counts[i]))
        page.click("#heat [data-layer='1'][data-head='-1']")
        assert [level > 0 for level in levels(page)] == bits[1].any(0).tolist()
        page.click("#heat [data-layer='2'][data-head='1']")
        assert [level > 0 for level in levels(page)] == bits[2, 1].tolist()
        assert f"{bits[2, 1].sum()} entries kept" in page.text_content("#kept-status")


def test_a_token_shows_its_heads(page: Page) -> None:
    open_tab(page, "kept")
    bits = BITS["adakv", 64]
    page.select_option("#kept-method", "Ada-KV")
    settle(page)
    for token in (0, 5, 20):
        page.click(f"#kept-text [data-t='{token}']", position={"x": 2, "y": 5})
        dotted = page.eval_on_selector_all(
            "#heat .has", "all => all.map((each) => [+each.dataset.layer, +each.dataset.head])"
        )
        assert sorted(dotted) == np.argwhere(bits[..., token]).tolist()
    page.click("#kept-find")
    assert page.text_content("#token-status").startswith('Token 10 "secret"')
    assert page.locator(".reference").all_text_contents() == ["secret", " 42"]


def test_the_inspector_by_keyboard_alone(page: Page) -> None:
    page.focus("#tab-results")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.is_visible("#part-kept")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#heat') !== null"):
            break
    status = lambda: page.text_content("#kept-status").split(":")[0]  # noqa: E731
    steps = [
        ("ArrowRight", "Layer 0, 2 heads"),
        ("ArrowDown", "Layer 0, head 0"),
        ("End", "Layer 2, head 0"),
        ("ArrowDown", "Layer 2, head 1"),
        ("ArrowLeft", "Layer 1, head 1"),
        ("Escape", "All 6 heads"),
    ]
    for key, expected in steps:
        page.keyboard.press(key)
        assert status() == expected
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "kept-text"
    page.keyboard.press("ArrowRight")
    assert page.text_content("#token-status").startswith("Token 0 ")


def luminance(colour: list[float]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


COLOURS = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (colours) => {
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
  };
  const page = getComputedStyle(document.body).backgroundColor;
  const text = document.querySelector("#kept-text");
  return Array.from({ length: 9 }, (_, level) => {
    const span = text.appendChild(document.createElement("span"));
    span.dataset.l = level;
    const style = getComputedStyle(span);
    const found = [read([page, style.backgroundColor]), read([style.color])];
    span.remove();
    return found;
  });
}"""


@pytest.mark.parametrize("how", ["system", "choice"])
def test_light_and_dark_can_be_read_and_told_apart_in_grey(page: Page, how: str) -> None:
    open_tab(page, "kept")
    seen = {}
    for theme in ("light", "dark"):
        if how == "system":
            page.emulate_media(color_scheme=theme)
        else:
            page.select_option("#theme", theme)
        found = page.evaluate(COLOURS)
        lights = [luminance(back) for back, _ in found]
        seen[theme] = lights[0]
        for back, (_, ink) in zip(lights, found, strict=True):
            high, low = max(back, luminance(ink)), min(back, luminance(ink))
            assert (high + 0.05) / (low + 0.05) >= 4.5
        steps = np.diff([light ** (1 / 2.4) for light in lights])
        assert (steps < -0.01).all() if theme == "light" else (steps > 0.01).all()
    assert seen["light"] > 0.9 and seen["dark"] < 0.05
    if how == "choice":
        page.reload()
        assert page.input_value("#theme") == "dark"


@pytest.mark.parametrize("width", [360, 390, 768])
def test_narrow_screens_scroll_down_only(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for name in TABS:
        open_tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_stay_and_a_cue_says_what_lies_outside(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page)
    frame = page.locator(".frame").nth(1)
    scroll, name = frame.locator(".scroll"), frame.locator("tbody td").first
    assert "right" in frame.get_attribute("class").split()
    before = name.bounding_box()["x"]
    scroll.evaluate("(box) => { box.scrollLeft = 200; }")
    settle(page)
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)
    scroll.evaluate("(box) => { box.scrollLeft = box.scrollWidth; }")
    settle(page)
    assert "right" not in frame.get_attribute("class").split()


def test_complete_only(page: Page) -> None:
    box = page.locator(".sortable").nth(1)
    box.locator(".complete").check()
    assert box.locator("tbody tr:visible").count() == 3
    assert box.locator("output").text_content() == "3 of 4 rows"
    box.locator(".complete").uncheck()
    assert box.locator("tbody tr:visible").count() == 4


def test_figures_follow_the_theme_and_can_be_taken_along(page: Page) -> None:
    open_tab(page, "figures")
    image = page.locator("#part-figures img:visible").first
    light = image.get_attribute("src")
    page.select_option("#theme", "dark")
    dark = image.get_attribute("src")
    assert dark != light and dark.startswith("data:image/png;base64,")
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "csv": b"method,"}
    for kind, start in starts.items():
        with page.expect_download() as download:
            page.locator(f"[data-get={kind}]:visible").first.click()
        assert download.value.suggested_filename == f"needle_tiny_model_accuracy.{kind}"
        assert download.value.path().read_bytes().startswith(start)
    assert base64.b64decode(light.split(",")[1]).startswith(b"\x89PNG")
    page.select_option("#theme", "light")
    assert image.get_attribute("src") == light
    image.click()
    assert page.locator("figure.large").count() == 1
    open_tab(page, "results")
    with page.expect_download() as download:
        page.locator("button.csv:visible").first.click()
    assert download.value.path().read_text().splitlines()[0].startswith("Method,Question,KV 64")


def test_kept_tokens_open_on_a_compressed_method(page: Page) -> None:
    open_tab(page, "kept")
    settle(page)
    assert page.input_value("#kept-method") != "FullKV"
    assert page.input_value("#kept-size").startswith("KV ")


def test_eight_thousand_tokens_stay_fluid(page: Page) -> None:
    """1,024 heads and 8,192 tokens; milliseconds until the browser has painted."""
    open_tab(page, "kept")
    settle(page)
    painted = """(change) => new Promise((done) => {
      const start = performance.now();
      document.addEventListener("headchange", () =>
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))),
        { once: true });
      const [id, value] = change;
      if (id === "square") { document.querySelector(value).click(); return; }
      const select = document.getElementById(id);
      select.value = value;
      select.dispatchEvent(new Event("input"));
    })"""
    took = {}
    for name, change in {
        "first view": ["kept-example", "1"],
        "method": ["kept-method", "SnapKV"],
        "size": ["kept-size", "KV 1024"],
        "layer": ["square", "#heat [data-layer='7'][data-head='-1']"],
        "head": ["square", "#heat [data-layer='20'][data-head='3']"],
        "all": ["square", "#heat .all"],
    }.items():
        took[name] = page.evaluate(painted, change)
    print({name: f"{value:.0f} ms" for name, value in took.items()})
    assert page.locator("#kept-text span").count() == LONG[2]
    assert took.pop("first view") < 1500
    assert max(took.values()) < 500


def test_the_leaderboard_filters(browser: Browser, address: str) -> None:
    root = address.removeprefix("file://").removesuffix("/report/index.html")
    assert leaderboard([root]) == 0
    page = browser.new_page(viewport={"width": 390, "height": 800})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"file://{root}/leaderboard/index.html")
    rows = page.locator(".sortable").first.locator("tbody tr:visible")
    everything = rows.count()
    page.select_option("#budget", index=1)
    some = rows.count()
    assert 0 < some < everything
    # Words typed above the table hide more rows, and bring back none.
    words = page.locator(".sortable input[type=search]").first
    words.fill("kv")
    assert 0 < rows.count() <= some
    words.fill("")
    assert rows.count() == some
    page.select_option("#benchmark", "other")
    assert page.locator(".sortable").first.locator("th:visible").all_text_contents()[4:] == [
        "other"
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    with page.expect_download() as download:
        page.click("#all-numbers")
    assert download.value.path().read_text().startswith("model,benchmark,method")
    assert faults == []
    page.close()
