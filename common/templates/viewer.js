// The script of every page, second part: the sides of a photo over or beside each other, from fit to 1:1, with keys.
// It uses `make` and `cards` of lists.js.

const MODES = { slider: "Slider", flicker: "Flicker", beside: "Side by side" };
const KEYS = "Keys: ← → photo, F flicker, S slider, B side by side, Z 1:1, R worst region, , . move the slider, Esc close";
const view = { card: null, sides: [], pair: [0, 1], shown: 0, mode: "slider", actual: false, x: 0.5, y: 0.5, split: 0.5, scroll: 0 };
const parts = {};

/** The sides of a photo: {name, url, part, parts, width, height}; from files of their own where the page names some. */
function sidesOf(card) {
  const own = JSON.parse(card.dataset.sides || "null");
  if (own) return own.map((side) => ({ part: 0, parts: 1, ...side }));
  return [...card.querySelectorAll("img[data-sides]")].flatMap((image) => {
    const names = image.dataset.sides.split(" ");
    const [width, height] = [image.getAttribute("width") / names.length, Number(image.getAttribute("height"))];
    return names.map((name, part) => ({ name, url: image.src, part, parts: names.length, width, height }));
  });
}

/** One side of `width` x `height` pixels at (left, top) of what holds it. */
function layer(side, left, top, width, height) {
  const image = make("img", { src: side.url, alt: "", draggable: false });
  image.style.width = `${side.parts * width}px`;
  image.style.left = `${-side.part * width}px`;
  const box = make("div", { className: "layer" }, image);
  Object.assign(box.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  return box;
}

function button(text, title, action) {
  const element = make("button", { type: "button", title }, text);
  element.addEventListener("click", action);
  return element;
}

function chooser(which, title) {
  const select = make("select", { "aria-label": title });
  select.addEventListener("change", () => { view.pair[which] = Number(select.value); view.shown = which; draw(); });
  return select;
}

function build() {
  parts.name = make("span", { className: "name" });
  parts.modes = Object.entries(MODES).map(([mode, text]) => button(text, `Key ${mode[0].toUpperCase()}`, () => setMode(mode)));
  parts.actual = button("1:1", "Key Z", () => zoom());
  parts.region = button("Worst region", "Key R", toRegion);
  parts.choosers = [chooser(0, "left side"), chooser(1, "right side")];
  parts.stage = make("div", { className: "stage" });
  parts.range = make("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": "where the slider divides the sides" });
  parts.loupes = make("div", { className: "loupes" });
  parts.facts = make("div", { className: "facts", tabIndex: 0 });
  const moves = [button("‹", "Previous photo", () => step(-1)), button("›", "Next photo", () => step(1))];
  moves.forEach((move) => move.setAttribute("aria-label", move.title));
  const bar = make("div", { className: "bar" }, ...parts.modes, ...parts.choosers, parts.actual, parts.region, ...moves,
    button("Close", "Key Esc", () => parts.dialog.close()));
  parts.dialog = make("dialog", { className: "viewer", "aria-label": "Compare the sides of a photo" },
    make("div", { className: "bar" }, parts.name), bar, parts.stage, parts.range, parts.loupes, parts.facts);
  document.body.append(parts.dialog);
  parts.range.addEventListener("input", () => { view.split = parts.range.value / 100; draw(); });
  parts.dialog.addEventListener("keydown", key);
  parts.dialog.addEventListener("close", () => view.card.querySelector("[data-open]")?.focus());
  parts.stage.addEventListener("pointerdown", (event) => { event.preventDefault(); parts.stage.setPointerCapture(event.pointerId); point(event); });
  parts.stage.addEventListener("pointermove", point);
  addEventListener("resize", () => parts.dialog.open && draw());
}

function open(card) {
  if (!parts.dialog) build();
  view.card = card;
  view.sides = sidesOf(card);
  // The output against the target is what one judges; without a target, the source against the output.
  const target = view.sides.findIndex((side) => side.name === "target");
  view.pair = target > 1 ? [target - 1, target] : [0, 1];
  Object.assign(view, { shown: 0, x: 0.5, y: 0.5, split: 0.5 });
  parts.choosers.forEach((select) => select.replaceChildren(
    ...view.sides.map((side, index) => make("option", { value: index }, side.name))));
  const listed = cards.filter((other) => !other.hidden);
  parts.name.textContent = `${listed.indexOf(card) + 1} of ${listed.length}: ${card.dataset.name}`;
  const facts = card.querySelector("[data-facts]");
  parts.facts.replaceChildren(...(facts ? facts.cloneNode(true).childNodes : []), make("p", { className: "soft" }, KEYS));
  parts.region.hidden = !card.dataset.region;
  if (!parts.dialog.open) parts.dialog.showModal();
  draw();
}

function step(direction) {
  const listed = cards.filter((card) => !card.hidden);
  open(listed[(listed.indexOf(view.card) + direction + listed.length) % listed.length]);
}

function setMode(mode) {
  if (mode === "flicker" && view.mode === "flicker") view.shown = 1 - view.shown;
  view.mode = mode;
  draw();
}

function zoom(actual = !view.actual) {
  view.actual = actual;
  draw();
}

function toRegion() {
  if (!view.card.dataset.region) return;
  const [left, top, width, height] = view.card.dataset.region.split(" ").map(Number);
  Object.assign(view, { x: left + width / 2, y: top + height / 2 });
  zoom(true);
  loupes(view.x, view.y);
}

/** Where a frame stands in a pane: {left, top, width, height}; the point (x, y) of the frame in the middle where it does not fit. */
function placed(paneWidth, paneHeight) {
  const { width, height } = view.sides[view.pair[0]];
  const scale = view.actual ? 1 / devicePixelRatio : Math.min(paneWidth / width, paneHeight / height);
  const along = (pane, frame, middle) => frame <= pane ? (pane - frame) / 2 : Math.min(0, Math.max(pane - frame, pane / 2 - middle * frame));
  return { left: along(paneWidth, width * scale, view.x), top: along(paneHeight, height * scale, view.y), width: width * scale, height: height * scale };
}

function draw() {
  const beside = view.mode === "beside";
  const shown = beside ? view.sides.map((_, index) => index) : view.pair;
  const { clientWidth, clientHeight } = parts.stage;
  const paneWidth = beside ? (clientWidth - 2 * (shown.length - 1)) / shown.length : clientWidth;
  const box = placed(paneWidth, clientHeight);
  const panel = (side) => layer(view.sides[side], box.left, box.top, box.width, box.height);
  const tag = (side, place) => make("span", { className: `tag ${place}` }, view.sides[side].name);
  let panes;
  if (beside) panes = shown.map((side) => make("div", { className: "pane" }, panel(side), tag(side, "left")));
  else if (view.mode === "flicker") {
    const layers = shown.map(panel);  // both stay, so that nothing is decoded anew between two looks
    layers[1 - view.shown].style.visibility = "hidden";
    panes = [make("div", { className: "pane" }, ...layers, tag(shown[view.shown], "left"))];
  } else {
    const [from, to] = [Math.max(0, box.left), Math.min(paneWidth, box.left + box.width)];
    const at = from + view.split * (to - from);
    const over = panel(shown[1]);
    over.style.clipPath = `inset(0 0 0 ${at - box.left}px)`;
    const divider = make("div", { className: "divider" });
    divider.style.left = `${at}px`;
    panes = [make("div", { className: "pane" }, panel(shown[0]), over, divider, tag(shown[0], "left"), tag(shown[1], "right"))];
  }
  parts.stage.replaceChildren(...panes);
  parts.range.hidden = view.mode !== "slider";
  parts.range.value = 100 * view.split;
  parts.modes.forEach((element, index) => element.setAttribute("aria-pressed", Object.keys(MODES)[index] === view.mode));
  parts.actual.setAttribute("aria-pressed", view.actual);
  parts.choosers.forEach((select, which) => { select.hidden = beside; select.value = view.pair[which]; });
  loupes(view.x, view.y);
}

/** The sides around one point of the frame (0 to 1), beside each other, at 1:1 or, of small pictures, at 2:1. */
function loupes(x, y) {
  if (parts.loupes.children.length !== view.sides.length || parts.loupes.card !== view.card) {
    parts.loupes.card = view.card;
    parts.loupes.replaceChildren(...view.sides.map((side) => {
      const scale = (side.width > 1600 ? 1 : 2) / devicePixelRatio;
      const looked = layer(side, 0, 0, view.sides[0].width * scale, view.sides[0].height * scale);
      return make("div", { className: "loupe" }, looked, make("span", { className: "tag left" }, side.name));
    }));
  }
  for (const loupe of parts.loupes.children) {
    const looked = loupe.firstChild;
    looked.style.left = `${loupe.clientWidth / 2 - x * parseFloat(looked.style.width)}px`;
    looked.style.top = `${loupe.clientHeight / 2 - y * parseFloat(looked.style.height)}px`;
  }
}

/** The pointer over the stage: the strip follows it; pressed, it moves the slider, or the photos where they do not fit. */
function point(event) {
  const pane = event.target.closest(".pane") || parts.stage.firstChild;
  const edge = pane.getBoundingClientRect();
  const box = placed(edge.width, edge.height);
  const inside = (value) => Math.min(1, Math.max(0, value));
  const [x, y] = [inside((event.clientX - edge.left - box.left) / box.width), inside((event.clientY - edge.top - box.top) / box.height)];
  if (event.buttons && event.type === "pointermove" && view.actual) {
    // From the middle that is shown, not from one beyond the edge.
    view.x = inside((edge.width / 2 - box.left - event.movementX) / box.width);
    view.y = inside((edge.height / 2 - box.top - event.movementY) / box.height);
    draw();
  } else if (event.buttons && view.mode === "slider" && !view.actual) {
    const [from, to] = [Math.max(0, box.left), Math.min(edge.width, box.left + box.width)];
    view.split = inside((event.clientX - edge.left - from) / (to - from));
    draw();
  }
  loupes(x, y);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input, select");
  const actions = {
    f: () => setMode("flicker"), s: () => setMode("slider"), b: () => setMode("beside"), z: () => zoom(), r: toRegion,
    ",": () => { view.split = Math.max(0, view.split - 0.05); draw(); }, ".": () => { view.split = Math.min(1, view.split + 0.05); draw(); },
    n: () => step(1), p: () => step(-1), ...(inField ? {} : { ArrowRight: () => step(1), ArrowLeft: () => step(-1) }),
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

for (const card of cards) {
  const title = card.querySelector("[data-title]");
  if (title) title.after(button("Compare", "Compare the sides of this photo", () => open(card)));
  if (title) title.nextElementSibling.dataset.open = "";
}
document.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  const pictured = event.target.closest(".strip, img[data-sides]");
  if (!card || !pictured || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  open(card);
});
