// The layer x head grid: how many tokens each head kept, and the choice of one head or layer.

const heat = {
  shape: [0, 0], // layers, heads
  at: [-1, -1], // layer and head of the chosen square; -1: all of them
  cells: [], // [layer][head], head -1 at the end: the layer's own square
};

/** Colour 0 to 8 by a share of the most; a root, as most tokens and heads have few. */
const level = (share) => (share > 0 ? 1 + Math.min(7, Math.floor(7 * Math.sqrt(share))) : 0);

function setLevel(node, value) {
  if (node.dataset.l !== String(value)) node.dataset.l = value;
}

function buildHeat(layers, heads) {
  heat.shape = [layers, heads];
  heat.cells = Array.from({ length: layers }, () => []);
  const square = (role, layer, head, content = "") => {
    const node = make("div", { role, textContent: content, tabIndex: -1 });
    Object.assign(node.dataset, { layer, head });
    heat.cells[layer]?.push(node);
    return node;
  };
  const rows = Array.from({ length: heads }, (_, head) => {
    const label = make("div", { role: "rowheader", textContent: `head ${head}` });
    const squares = Array.from({ length: layers }, (_, layer) => square("gridcell", layer, head));
    return make("div", { role: "row" }, label, ...squares);
  });
  heat.all = square("columnheader", -1, -1, "all heads");
  heat.all.className = "all";
  const layerSquares = Array.from({ length: layers }, (_, layer) => square("columnheader", layer, -1, String(layer)));
  for (const [layer, node] of layerSquares.entries()) node.ariaLabel = `Layer ${layer}, all heads`;
  $("heat").replaceChildren(make("div", { role: "row" }, heat.all, ...layerSquares), ...rows);
  $("heat").classList.toggle("tall", heads > 12);
  if (heat.at[0] >= layers || heat.at[1] >= heads) heat.at = [-1, -1];
}

/** Colours the squares; `counts[layer * heads + head]`. */
function paintHeat(counts) {
  const [layers, heads] = heat.shape;
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      const node = heat.cells[layer][head];
      const count = counts[layer * heads + head];
      setLevel(node, level(count / most));
      node.ariaLabel = `Layer ${layer}, head ${head}: ${count.toLocaleString("en")} tokens`;
      node.title = node.ariaLabel;
    }
  }
}

/** A dot in every square whose head kept the token that is looked at. */
function markHeads(kept) {
  const [layers, heads] = heat.shape;
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      heat.cells[layer][head].classList.toggle("has", kept(layer * heads + head));
    }
  }
}

function squareAt([layer, head]) {
  return layer < 0 ? heat.all : heat.cells[layer].at(head);
}

/** Chooses a square; the inspector follows. */
function pick(at, focus) {
  $("heat").querySelector(".on")?.classList.remove("on");
  for (const node of $("heat").querySelectorAll("[tabindex='0']")) node.tabIndex = -1;
  heat.at = at;
  const node = squareAt(at);
  node.classList.add("on");
  node.tabIndex = 0;
  if (focus) node.focus();
  document.dispatchEvent(new Event("headchange"));
}

$("heat").addEventListener("click", (event) => {
  const node = event.target.closest("[data-layer]");
  if (node) pick([Number(node.dataset.layer), Number(node.dataset.head)], true);
});

$("heat").addEventListener("keydown", (event) => {
  const [layers, heads] = heat.shape;
  let [layer, head] = heat.at;
  const { key } = event;
  if (key === "Escape") [layer, head] = [-1, -1];
  else if (key === "ArrowRight") layer = Math.min(layer + 1, layers - 1);
  else if (key === "ArrowLeft") layer = Math.max(layer - 1, head < 0 ? -1 : 0); // the corner: all heads
  else if (key === "ArrowDown" && layer >= 0) head = Math.min(head + 1, heads - 1);
  else if (key === "ArrowUp") head = Math.max(head - 1, -1);
  else if (key === "Home") layer = 0;
  else if (key === "End") layer = layers - 1;
  else return;
  event.preventDefault();
  pick([layer, head], true);
});
