// Figures as PNG, PDF and the numbers behind them, tables as CSV; figures follow the theme.

function download(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** The file that a data address holds; the page's policy allows no fetch. */
function unpackAddress(address) {
  const [head, body] = address.split(",");
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: /^data:([^;]*)/.exec(head)[1] });
}

/** A field of a CSV file; what a spreadsheet would run as a formula gets an apostrophe. */
function field(text) {
  const safe = /^[=@\t\r]|^[+-](?![\d.])/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function tableCsv(table) {
  const rows = [...table.tHead.rows, ...[...table.tBodies[0].rows].filter((row) => !row.hidden)];
  const line = (row) => [...row.cells].map((cell) => field(cell.textContent.replace("\u2605", "").trim())).join(",");
  return `${rows.map(line).join("\n")}\n`;
}

document.addEventListener("click", (event) => {
  const csv = event.target.closest("button.csv");
  if (csv) {
    const name = csv.dataset.name.split(":")[0].replace(/[^\w.-]+/g, "_");
    const table = csv.closest(".sortable").querySelector("table");
    download(`${name}.csv`, new Blob([tableCsv(table)], { type: "text/csv" }));
  }
  const get = event.target.closest("[data-get]");
  if (get) {
    const { name } = get.parentElement.dataset;
    const image = document.querySelector(`img[data-figure="${CSS.escape(name)}"]`);
    const kind = get.dataset.get;
    const blob =
      kind === "csv"
        ? new Blob([data("csv", get.closest("[data-group]").dataset.group)], { type: "text/csv" })
        : unpackAddress(kind === "png" ? (image.dataset.light ?? image.src) : data("others", name).pdf);
    download(`${name}.${kind}`, blob);
  }
  const image = event.target.closest("figure img");
  if (image) image.parentElement.classList.toggle("large");
});

const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

/** Shows the dark copies of the figures that are seen, once they are. */
function showFigures() {
  if ($("part-figures").hidden) return;
  const dark = isDark();
  for (const image of document.querySelectorAll("#part-figures [data-group]:not([hidden]) img")) {
    if (dark === image.classList.contains("dark")) continue;
    const other = data("others", image.dataset.figure).dark;
    if (!other) continue;
    image.dataset.light ??= image.src;
    image.src = dark ? other : image.dataset.light;
    image.classList.toggle("dark", dark);
  }
}

for (const event of ["themechange", "groupchange", "tabchange"]) document.addEventListener(event, showFigures);
