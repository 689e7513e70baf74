// Filters of the leaderboard: rows by model, question and share of the cache, columns by benchmark.

const FIXED = 4; // columns before those of the benchmarks

function filterBoard() {
  const [model, question, budget, benchmark] = ["model", "question", "budget", "benchmark"].map((id) => $(id).value);
  for (const box of document.querySelectorAll(".sortable[data-model]")) {
    box.hidden = Boolean(model) && box.dataset.model !== model;
    const table = box.querySelector("table");
    for (const row of table.tBodies[0].rows) {
      const [asked, share] = [row.cells[1].textContent, row.cells[2].textContent];
      // The full cache stands beside every share. A class, as the words typed above a table hide rows too.
      row.classList.toggle("off", Boolean((question && asked !== question) || (budget && share !== budget && share !== "full")));
    }
    const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
    for (const row of table.rows) {
      [...row.cells].forEach((cell, column) => {
        cell.hidden = Boolean(benchmark) && column >= FIXED && heads[column] !== benchmark;
      });
    }
  }
  cues();
}

document.querySelector("#all-numbers").addEventListener("click", () =>
  download("leaderboard.csv", new Blob([data("csv", "leaderboard")], { type: "text/csv" })),
);
for (const id of ["model", "question", "budget", "benchmark"]) $(id).addEventListener("input", filterBoard);

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".sortable").forEach(setUpTable);
  setUpTheme();
  filterBoard();
});
