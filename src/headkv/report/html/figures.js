// Figures follow the theme, grow when they are clicked, and can be taken along.

document.addEventListener("click", (event) => {
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
