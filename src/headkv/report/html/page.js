"use strict";
// Tabs, theme, the choice of benchmark and model, and tables that sort and filter.
// Text of data sets and models goes into the page as textContent, never as markup.

const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function options(select, values, label = (value) => value) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => make("option", { value, textContent: label(value) })));
  if (values.includes(before)) select.value = before;
}

/** Scrolls a box, and only the box, so that a node in it is seen. */
function reveal(box, node) {
  const [place, frame] = [node.getBoundingClientRect(), box.getBoundingClientRect()];
  if (place.top < frame.top || place.bottom > frame.bottom) {
    box.scrollTop += place.top - frame.top - frame.height / 3;
  }
}

const parsed = new Map();

/** The JSON of a data block, parsed at first use. */
function data(kind, key) {
  const name = `${kind}="${CSS.escape(key)}"`;
  if (!parsed.has(name)) parsed.set(name, JSON.parse(document.querySelector(`script[data-${name}]`).textContent));
  return parsed.get(name);
}

// --- tables

/** "1,234.5 [..]" -> 1234.5, "KV 64" -> 64; NaN for text that does not begin with a whole number. */
function number(text) {
  const found = /^(?:KV )?[<+]?(-?[\d,]*\.?\d+)(?=$|[\s[(/%])/.exec(text);
  return found ? parseFloat(found[1].replaceAll(",", "")) : NaN;
}

function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, text: row.cells[column].textContent.trim() }));
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => {
    const [x, y] = [number(a.text), number(b.text)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // no number: last
    return (Number.isNaN(x) ? sign * a.text.localeCompare(b.text) : sign * (x - y)) || a.place - b.place;
  });
  body.append(...rows.map(({ row }) => row));
}

function setUpTable(box) {
  const table = box.querySelector("table");
  const [input, count] = [box.querySelector("input"), box.querySelector("output")];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.filter((row, i) => !(row.hidden = !words.every((word) => texts[i].includes(word))));
    count.textContent = words.length ? `${shown.length} of ${rows.length} rows` : "";
  });
}

// --- theme

function setUpTheme() {
  const select = $("theme");
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
    document.dispatchEvent(new Event("themechange"));
  };
  try {
    select.value = localStorage.getItem("headkv-theme") ?? "";
  } catch {
    // Some browsers give files no storage; the choice then lasts as long as the page.
  }
  select.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem("headkv-theme", select.value);
    } catch {
      // as above
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

// --- tabs and groups; the sections have other ids than the addresses, or the page would jump

const tabs = [...document.querySelectorAll("[data-tab]")];

function openTab(name) {
  for (const tab of tabs) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`part-${tab.dataset.tab}`).hidden = !chosen;
  }
  document.dispatchEvent(new CustomEvent("tabchange", { detail: name }));
}

/** Opens a tab, and has the address name it. */
function goToTab(name) {
  history.replaceState(null, "", `#${name}`);
  openTab(name);
}

/** The tab or the run that the address names. */
function followAddress() {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = name.startsWith("run-") ? $(name) : null;
  if (target) {
    $("group").value = target.parentElement.dataset.group;
    showGroup();
    openTab("runs");
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus();
  } else if (name !== "main" || !tabs.some((tab) => tab.tabIndex === 0)) {
    openTab(tabs.some((tab) => tab.dataset.tab === name) ? name : "results");
  }
}

function setUpTabs() {
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => goToTab(tab.dataset.tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
  addEventListener("hashchange", followAddress);
}

const group = () => $("group").value;

function showGroup() {
  for (const part of document.querySelectorAll("[data-group]")) part.hidden = part.dataset.group !== group();
  document.dispatchEvent(new Event("groupchange"));
}

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".sortable").forEach(setUpTable);
  setUpTheme();
  setUpTabs();
  $("group").addEventListener("change", showGroup);
  showGroup();
  followAddress();
});
