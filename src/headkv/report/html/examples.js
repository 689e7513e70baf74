// The example browser: a list to choose from, and every method's answer beside the reference.

const browser = { all: [], shown: [], chosen: null };

/** Cells shown at the chosen size; the full cache stands beside every size. */
function shownCells() {
  const size = $("ex-size").value;
  return data("examples", group()).cells.flatMap((cell, index) =>
    cell.kv_size === null || cell.size === size ? [index] : [],
  );
}

const given = (example, cells) => cells.map((index) => example.given[index]).filter(Boolean);

function spread(example, cells) {
  const scores = given(example, cells).map(([, score]) => score);
  return scores.length ? Math.max(...scores) - Math.min(...scores) : 0;
}

function summary(scores) {
  if (!scores.length) return "not run";
  if (scores.every((score) => score === 0 || score === 100)) {
    return `${scores.filter(Boolean).length} of ${scores.length} right`;
  }
  return `mean ${(scores.reduce((sum, score) => sum + score, 0) / scores.length).toFixed(0)}`;
}

/** An id as a title: data sets have ids of 48 hex digits, and worse. */
function shortName(id) {
  if (/^[0-9a-f]{20,}$/.test(id)) return `${id.slice(0, 8)}\u2026${id.slice(-4)}`;
  return id.length > 60 ? `${id.slice(0, 40)}\u2026${id.slice(-12)}` : id;
}

function listExamples() {
  const cells = shownCells();
  const words = $("ex-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const differ = $("ex-differ").checked;
  const task = $("ex-task").value;
  browser.shown = browser.all.filter((example) => {
    if (task !== "all tasks" && example.task !== task) return false;
    if (differ && spread(example, cells) < 1) return false; // of 100: rounding is no disagreement
    if (!words.length) return true;
    const texts = [example.id, example.prompt ?? "", ...example.answers, ...given(example, cells).map(([text]) => text)];
    const text = texts.join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  $("ex-list").replaceChildren(
    ...browser.shown.map((example, place) => {
      const scores = given(example, cells).map(([, score]) => score);
      return make(
        "div",
        { role: "option", id: `ex-${place}` },
        make("span", { textContent: shortName(example.id), title: example.id }),
        make("small", { textContent: summary(scores) }),
      );
    }),
  );
  const left = Object.values(data("examples", group()).left_out).reduce((sum, n) => sum + n, 0);
  $("ex-count").textContent =
    `${browser.shown.length} of ${browser.all.length} examples` +
    (left ? ` (${left} more are in the result files, not in this page)` : "");
  choose(Math.max(0, browser.shown.indexOf(browser.chosen)));
}

function choose(place) {
  const list = $("ex-list");
  list.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
  browser.chosen = browser.shown[place] ?? null;
  const option = list.children[place];
  if (option) {
    option.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", option.id);
    reveal(list, option);
  } else {
    list.removeAttribute("aria-activedescendant");
  }
  showExample();
}

const text = (content) => make("pre", { className: "text", dir: "auto", textContent: content });

function score(value) {
  const kind = value >= 100 ? "full" : value <= 0 ? "zero" : "";
  const mark = { full: "\u2713 ", zero: "\u2717 " }[kind] ?? "";
  return make("span", { className: `score ${kind}`, textContent: `${mark}${value.toFixed(value % 1 ? 1 : 0)}` });
}

function showExample() {
  const detail = $("ex-detail");
  const example = browser.chosen;
  if (!example) {
    detail.replaceChildren(make("p", { className: "note", textContent: "No example matches." }));
    return;
  }
  const { cells } = data("examples", group());
  const cards = shownCells().map((index) => {
    const answer = example.given[index];
    return make(
      "div",
      { className: "card" },
      make(
        "header",
        {},
        make("strong", { textContent: `${cells[index].name}, ${cells[index].size}` }),
        answer ? score(answer[1]) : make("span", { className: "score", textContent: "not run" }),
      ),
      answer ? text(answer[0] || "(empty answer)") : "",
    );
  });
  const prompt = text(example.prompt ?? "The prompt is not stored with these results.");
  prompt.classList.add("prompt");
  if (example.prompt === null) prompt.classList.add("missing");
  prompt.tabIndex = 0;
  const place = data("inspected", group()).examples.findIndex((e) => e.task === example.task && e.id === example.id);
  const link = make("button", { type: "button", textContent: "Show kept tokens", hidden: place < 0 });
  link.addEventListener("click", () => showKept(place));
  detail.replaceChildren(
    make("h2", { textContent: `${example.task}: ${shortName(example.id)}`, title: example.id }),
    make("div", { className: "tools", hidden: place < 0 }, link),
    make("h3", { textContent: "Reference" }),
    text(example.answers.join("\n") || "none"),
    make("h3", { textContent: "Answers" }),
    make("div", { className: "cards" }, ...cards),
    make("h3", { textContent: "Prompt" }),
    prompt,
  );
}

document.addEventListener("groupchange", () => {
  const { cells, examples } = data("examples", group());
  browser.all = examples;
  const sizes = [...new Set(cells.filter((cell) => cell.kv_size !== null).map((cell) => cell.size))];
  sizes.sort((a, b) => number(a) - number(b));
  options($("ex-size"), sizes.length ? sizes : ["full"]);
  options($("ex-task"), ["all tasks", ...new Set(examples.map((example) => example.task))]);
  listExamples();
});

for (const id of ["ex-task", "ex-size", "ex-search", "ex-differ"]) $(id).addEventListener("input", listExamples);

$("ex-list").addEventListener("click", (event) => {
  const option = event.target.closest("[role=option]");
  if (option) choose([...$("ex-list").children].indexOf(option));
});

$("ex-list").addEventListener("keydown", (event) => {
  const now = browser.shown.indexOf(browser.chosen);
  const last = browser.shown.length - 1;
  const next = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + 10, PageUp: now - 10, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  choose(Math.min(Math.max(next, 0), last));
});
