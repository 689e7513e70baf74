"use strict";
// Tables that sort, filter, and say what lies outside; small helpers of all scripts.
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
  const complete = box.querySelector(".complete");
  const partial = (row) => row.classList.contains("partial") || row.classList.contains("some");
  let texts = null; // read at first use: a page has thousands of rows
  const filter = () => {
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row, i) => words.every((word) => texts[i].includes(word)) && !(complete?.checked && partial(row));
    const shown = rows.filter((row, i) => !(row.hidden = !fits(row, i)));
    count.textContent = shown.length < rows.length || words.length ? `${shown.length} of ${rows.length} rows` : "";
    cue(box.querySelector(".scroll"));
  };
  input.addEventListener("input", filter);
  complete?.addEventListener("input", filter);
  const scroll = box.querySelector(".scroll");
  scroll.addEventListener("scroll", () => cue(scroll), { passive: true });
}

/** Says whether a table goes on to the right or below. */
function cue(scroll) {
  const { scrollLeft, scrollTop, scrollWidth, scrollHeight, clientWidth, clientHeight } = scroll;
  scroll.parentElement.classList.toggle("right", scrollLeft + clientWidth < scrollWidth - 2);
  scroll.parentElement.classList.toggle("below", scrollTop + clientHeight < scrollHeight - 2);
}

/** Every table that is seen; after the first view has been painted, as it needs the layout. */
function cues() {
  requestAnimationFrame(() =>
    setTimeout(() => {
      for (const scroll of document.querySelectorAll(".frame > .scroll")) if (scroll.clientWidth) cue(scroll);
    }),
  );
}

for (const event of ["groupchange", "tabchange"]) document.addEventListener(event, cues);
addEventListener("resize", cues);


