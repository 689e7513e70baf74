// The prompt as text, each token coloured by how many of the chosen heads kept it.

const kept = {
  inspection: null,
  bits: new Uint8Array(0), // [layer, head, token], every head at a new byte, lowest bit first
  stride: 0, // bytes of a head
  counts: new Uint16Array(0), // heads that kept each token, among the chosen
  most: 1, // chosen heads
  spans: [],
  levels: new Uint8Array(0), // colours now shown
  references: [], // first tokens of the references' places in the prompt
  here: -1, // the token looked at
  turn: 0, // only the latest choice may be shown
};
const BLOCK = 150; // tokens after which a line break starts a new block, which the browser may skip
const LONGEST = 1500;

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The cell of the chosen method and size; the nearest size where the method has no such one. */
function chosenCell() {
  const cells = kept.inspection.cells.filter((cell) => cell.name === $("kept-method").value);
  return cells.find((cell) => cell.size === $("kept-size").value) ?? cells[0];
}

function showText() {
  const { tokens, answers } = kept.inspection;
  const blocks = [];
  let block = [];
  kept.spans = tokens.map((token, place) => {
    const span = make("span", { textContent: token });
    span.dataset.t = place;
    span.dataset.l = 0;
    block.push(span);
    if ((block.length >= BLOCK && token.endsWith("\n")) || block.length === LONGEST) {
      blocks.push(make("div", {}, ...block));
      block = [];
    }
    return span;
  });
  $("kept-text").replaceChildren(...blocks, make("div", {}, ...block));
  kept.levels = new Uint8Array(tokens.length);
  kept.here = -1;
  markReferences(tokens, answers);
}

/** Underlines the references wherever the prompt holds them word for word. */
function markReferences(tokens, answers) {
  const ends = [];
  let length = 0;
  for (const token of tokens) ends.push((length += token.length));
  const prompt = tokens.join("").toLowerCase();
  kept.references = [];
  for (const answer of new Set(answers.map((each) => each.trim().toLowerCase()))) {
    if (answer.length < 3) continue; // "no" is everywhere
    for (let at = prompt.indexOf(answer); at >= 0; at = prompt.indexOf(answer, at + answer.length)) {
      const first = ends.findIndex((end) => end > at);
      kept.references.push(first);
      for (let i = first; i < ends.length && (i === first || ends[i - 1] < at + answer.length); i++) {
        kept.spans[i].classList.add("reference");
      }
    }
  }
  kept.references.sort((a, b) => a - b);
  $("kept-find").disabled = !kept.references.length;
}

/** Heads (layer * heads + head) that the choice in the grid stands for. */
function chosenHeads() {
  const [layers, heads] = heat.shape;
  const [layer, head] = heat.at;
  if (layer < 0) return { first: 0, end: layers * heads };
  if (head < 0) return { first: layer * heads, end: (layer + 1) * heads };
  return { first: layer * heads + head, end: layer * heads + head + 1 };
}

function eachKept(head, visit) {
  for (let i = head * kept.stride, base = 0; base < kept.stride * 8; i++, base += 8) {
    for (let byte = kept.bits[i]; byte; byte &= byte - 1) visit(base + 31 - Math.clz32(byte & -byte));
  }
}

const isKept = (head, token) => Boolean(kept.bits[head * kept.stride + (token >> 3)] & (1 << (token & 7)));

/** Counts and colours for the chosen heads; only tokens whose colour changes are touched. */
function paintText() {
  const { first, end } = chosenHeads();
  const counts = new Uint16Array(kept.spans.length);
  for (let head = first; head < end; head++) eachKept(head, (token) => counts[token]++);
  kept.counts = counts;
  kept.most = end - first;
  for (let token = 0; token < counts.length; token++) {
    const value = level(counts[token] / kept.most);
    if (kept.levels[token] === value) continue;
    kept.levels[token] = value;
    kept.spans[token].dataset.l = value;
  }
  showLegend();
  drawStrip();
  showStatus();
  showToken(kept.here);
}

function showLegend() {
  const steps = Array.from({ length: kept.most }, (_, i) => level((i + 1) / kept.most));
  const parts = [make("span", { textContent: "0" })];
  parts[0].dataset.l = 0;
  for (let value = 1; value <= 8; value++) {
    const [low, high] = [steps.indexOf(value) + 1, steps.lastIndexOf(value) + 1];
    if (!low) continue;
    const part = make("span", { textContent: low === high ? `${low}` : `${low} to ${high}` });
    part.dataset.l = value;
    parts.push(part);
  }
  $("legend").replaceChildren("Heads that kept a token:", ...parts);
}

/** The whole prompt at a glance: a column a token, as high as the share of heads that kept it. */
function drawStrip() {
  const canvas = $("strip");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !kept.counts.length) return;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  const colour = (name) => {
    canvas.style.color = `var(${name})`; // a canvas does not know the page's variables
    return getComputedStyle(canvas).color;
  };
  const [bar, mark] = [colour("--keep"), colour("--warn")];
  const tokens = kept.counts.length;
  const columns = new Float32Array(Math.ceil(width));
  kept.counts.forEach((count, token) => {
    const from = Math.floor((token / tokens) * width);
    const to = Math.max(from + 1, Math.floor(((token + 1) / tokens) * width));
    for (let x = from; x < to; x++) columns[x] = Math.max(columns[x], count / kept.most);
  });
  pen.fillStyle = mark;
  for (const token of kept.references) pen.fillRect((token / tokens) * width - 1, 0, 3, 5);
  pen.fillStyle = bar;
  columns.forEach((share, x) => pen.fillRect(x, height - share * (height - 7), 1, share * (height - 7)));
}

function showStatus() {
  const [layer, head] = heat.at;
  const { first, end } = chosenHeads();
  let total = 0;
  for (const count of kept.counts) total += count;
  const tokens = kept.counts.length;
  const share = ((100 * total) / (tokens * (end - first))).toFixed(1);
  const what = layer < 0 ? `All ${end} heads` : head < 0 ? `Layer ${layer}, ${end - first} heads` : `Layer ${layer}, head ${head}`;
  const each = end - first > 1 ? `, ${Math.round(total / (end - first)).toLocaleString("en")} a head` : "";
  $("kept-status").textContent =
    `${what}: ${total.toLocaleString("en")} entries kept${each}, ${share} % of a prompt of ${tokens.toLocaleString("en")} tokens.`;
}

function showToken(token) {
  kept.spans[kept.here]?.classList.remove("here");
  kept.here = token;
  const heads = heat.shape[0] * heat.shape[1];
  if (token < 0) {
    $("token-status").textContent = "Click a token, or step through the text with the arrow keys, to see which heads kept it.";
    markHeads(() => false);
    return;
  }
  kept.spans[token].classList.add("here");
  markHeads((head) => isKept(head, token));
  let of = 0;
  for (let head = 0; head < heads; head++) of += isKept(head, token);
  const name = JSON.stringify(kept.inspection.tokens[token]);
  $("token-status").textContent = `Token ${token} ${name}: kept by ${of} of ${heads} heads, dotted above.`;
}

/** Shows the chosen method and size of the example that is there. */
async function showCell() {
  const turn = ++kept.turn;
  const cell = chosenCell();
  const sizes = kept.inspection.cells.filter((each) => each.name === cell.name).map((each) => each.size);
  options($("kept-size"), sizes);
  $("kept-size").value = cell.size;
  const bits = await unpack(cell.kept);
  if (turn !== kept.turn) return;
  const [layers, heads, tokens] = cell.shape;
  kept.bits = bits;
  kept.stride = Math.ceil(tokens / 8);
  if (heat.shape[0] !== layers || heat.shape[1] !== heads) buildHeat(layers, heads);
  const counts = new Uint32Array(layers * heads);
  for (let head = 0; head < counts.length; head++) eachKept(head, () => counts[head]++);
  paintHeat(counts);
  showAnswer(cell);
  pick(heat.at, false);
}

/** What the model answered from this cache, where the results have it. */
function showAnswer(cell) {
  const { cells, examples } = data("examples", group());
  const { task, id, protocol, compress_on: on = "prompt" } = kept.inspection;
  const fits = (each) => each.protocol === protocol && each.compress_on === on && ["method", "kv_size", "granularity"].every((name) => each[name] === cell[name]);
  const given = examples.find((each) => each.task === task && each.id === id)?.given[cells.findIndex(fits)];
  $("kept-answer").replaceChildren(
    `Reference: ${kept.inspection.answers.join(" / ")}. `,
    ...(given ? [`Answer from this cache: ${given[0] || "(empty)"} `, score(given[1])] : []),
  );
}

function showInspection() {
  const { examples, left_out: left } = data("inspected", group());
  $("kept-none").hidden = examples.length > 0;
  $("kept-some").hidden = !examples.length;
  if (!examples.length) return;
  $("kept-left-out").textContent = left ? `${left} more inspected examples are not in this page` : "";
  kept.inspection = data("kept", `${group()}-${$("kept-example").value}`);
  const methods = [...new Set(kept.inspection.cells.map((cell) => cell.name))];
  const first = !methods.includes($("kept-method").value); // else the choice stays
  options($("kept-method"), methods);
  // Neither the full cache, which keeps everything, nor a control.
  const compressed = kept.inspection.cells.filter((cell) => cell.kv_size !== null);
  const telling = compressed.findLast((cell) => !cell.control) ?? compressed[0];
  if (first && telling) $("kept-method").value = telling.name;
  showText();
  return showCell();
}

/** Opens the inspector at an example, as the example browser asks. */
function showKept(place) {
  $("kept-example").value = String(place);
  kept.inspection = null;
  goToTab("kept");
}

/** Looks at a token and brings it into view. */
function goTo(token) {
  showToken(token);
  const show = () => reveal($("kept-text"), kept.spans[token]);
  show();
  requestAnimationFrame(show); // blocks on the way had guessed heights until they were seen
}

const keptIsOpen = () => !$("part-kept").hidden;

document.addEventListener("groupchange", () => {
  const { examples, folder } = data("inspected", group());
  const select = $("kept-example");
  select.replaceChildren(...examples.map((e, i) => make("option", { value: i, textContent: `${e.task}: ${shortName(e.id)}` })));
  document.querySelector("#kept-none code").textContent = `headkv inspect results/${folder}`;
  kept.inspection = null;
  if (keptIsOpen()) showInspection();
});
// Nothing is built before it is looked at.
document.addEventListener("tabchange", (event) => {
  if (event.detail !== "kept") return;
  if (kept.inspection) drawStrip(); // the window or the theme may have changed meanwhile
  else showInspection();
});
document.addEventListener("headchange", paintText);
document.addEventListener("themechange", drawStrip);
addEventListener("resize", drawStrip);
$("kept-example").addEventListener("input", showInspection);
for (const id of ["kept-method", "kept-size"]) $(id).addEventListener("input", showCell);
$("kept-find").addEventListener("click", () => goTo(kept.references.find((token) => token > kept.here) ?? kept.references[0]));
$("strip").addEventListener("click", (event) =>
  goTo(Math.min(kept.spans.length - 1, Math.floor((event.offsetX / $("strip").clientWidth) * kept.spans.length))),
);
$("kept-text").addEventListener("click", (event) => {
  const token = event.target.closest("[data-t]");
  if (token) showToken(Number(token.dataset.t));
});
$("kept-text").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  goTo(Math.min(Math.max(kept.here + step, 0), kept.spans.length - 1));
});
