// Tables as CSV files.

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
  if (!csv) return;
  const name = csv.dataset.name.split(":")[0].replace(/[^\w.-]+/g, "_");
  const table = csv.closest(".sortable").querySelector("table");
  download(`${name}.csv`, new Blob([tableCsv(table)], { type: "text/csv" }));
});
