// The script of every page, first part: lists to sort and filter, and a list of what to drop. viewer.js is the other part.
// A page shows the same pictures and numbers without it. It asks nothing of the network and keeps nothing.
// A photo is an element with data-name; its numbers are data-gain, data-psnr, ...; its sides are the parts of img[data-sides].
"use strict";

const ORDERS = {
  rank: ["as listed", 1], gain: ["gain, worst first", 1], psnr: ["PSNR, worst first", 1], delta_e: ["Delta E, worst first", -1],
  cast: ["tint of white walls, worst first", -1], name: ["name", 1],
};
const FILTERS = { fold: "Fold", group: "Group", kind: "Kind" };
const BELOW = "worse than untouched";

/** An element with properties, attributes where the name has a dash or is none of its own, and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------- lists

const items = [...document.querySelectorAll("[data-name]")];
const lists = new Map();  // list -> its photos, as the page has them
for (const item of items) lists.set(item.parentElement, [...(lists.get(item.parentElement) || []), item]);
items.forEach((item, rank) => { item.dataset.rank = rank; });
const natural = new Intl.Collator("en", { numeric: true }).compare;
const chosen = { order: "rank", worse: false };

function shows(item) {
  if (chosen.worse && !(Number(item.dataset.gain) < 0)) return false;
  return Object.keys(FILTERS).every((key) => !chosen[key] || JSON.parse(item.dataset[key] || "[]").includes(chosen[key]));
}

function arrange() {
  const direction = ORDERS[chosen.order][1];
  // A photo without the number comes last: NaN would leave the order of the others open.
  const value = (item) => chosen.order in item.dataset ? Number(item.dataset[chosen.order]) : direction * Infinity;
  const compare = chosen.order === "name"
    ? (a, b) => natural(a.dataset.name, b.dataset.name)
    : (a, b) => direction * (value(a) - value(b)) || a.dataset.rank - b.dataset.rank;
  for (const [list, members] of lists) {
    list.append(...[...members].sort(compare));
    for (const member of members) member.hidden = !shows(member);
  }
  const count = (some) => new Set(some.map((item) => item.dataset.name)).size;  // a photo may have a picture and a row
  told.textContent = `${count(items.filter((item) => !item.hidden))} of ${count(items)} photos`;
}

function menu(title, key, choices) {
  const select = make("select", { "data-tool": key });
  for (const [value, text] of choices) select.append(make("option", { value }, text));
  select.addEventListener("change", () => { chosen[key] = select.value; arrange(); });
  return make("label", {}, title, select);
}

const cards = items.filter((item) => item.querySelector("[data-sides]"));
const told = make("span", { className: "soft", role: "status" });
const worse = make("input", { type: "checkbox", "data-tool": "worse" });
worse.addEventListener("change", () => { chosen.worse = worse.checked; arrange(); });

function buildTools(place) {
  const some = (key) => items.some((item) => key in item.dataset);
  const orders = Object.entries(ORDERS).filter(([key]) => some(key));
  place.append(menu("Order", "order", orders.map(([key, [text]]) => [key, text])));
  for (const [key, title] of Object.entries(FILTERS)) {
    const labels = items.map((item) => JSON.parse(item.dataset[key] || "[]"));
    const values = [...new Set(labels.flat())].sort(natural);
    const divides = values.length > 1 || (values.length === 1 && labels.some((some) => !some.length));
    if (divides && 2 * values.length <= items.length) place.append(menu(title, key, [["", "all"], ...values.map((value) => [value, value])]));
  }
  if (some("gain")) place.append(make("label", {}, worse, " " + BELOW));
  place.append(told);
  if (cards.length) place.append(make("span", { className: "soft" }, "Click a photo to compare its sides."));
  place.className = "tools";
  arrange();
}

document.documentElement.classList.add("scripted");
const place = document.querySelector("[data-tools]");
if (place && items.length) buildTools(place);
for (const link of document.querySelectorAll("a[data-only]")) {
  link.addEventListener("click", () => { worse.checked = chosen.worse = link.dataset.only === "worse"; arrange(); });
}

// ---------------------------------------------------------------- what to drop

const drop = document.querySelector("[data-drop-list]");
if (drop && items.length) {
  drop.hidden = false;
  const found = items.filter((item) => item.dataset.drop);
  const button = make("button", { type: "button" });
  const ticks = found.map((item) => {
    const tick = make("input", { type: "checkbox", "data-tick": "" });
    tick.addEventListener("change", count);
    (item.querySelector("[data-tick-here]") || item).prepend(make("label", {}, tick, " leave out "));
    return tick;
  });
  const ticked = () => found.filter((_, index) => ticks[index].checked);
  function count() {
    button.textContent = `Save drop.jsonl (${ticked().length} of ${found.length})`;
    button.disabled = !ticked().length;
  }
  button.addEventListener("click", () => {
    const lines = ticked().map((item) => JSON.stringify({ src: JSON.parse(item.dataset.drop) }) + "\n");
    const url = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    make("a", { href: url, download: "drop.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  count();
  drop.append(button);
}

// ---------------------------------------------------------------- one side at a time on a phone

const narrow = matchMedia("(max-width: 40rem)");
function headsAsButtons() {
  if (!narrow.matches) return;
  for (const card of cards) {
    const strip = card.querySelector(".strip");
    const heads = card.querySelectorAll(".heads > span");
    if (!strip || !heads.length) continue;
    const shown = Math.min(1, heads.length - 1);
    strip.style.setProperty("--parts", heads.length);
    heads.forEach((head, side) => {
      head.replaceWith(make("button", { type: "button", "aria-pressed": side === shown, "data-side": side }, head.textContent));
    });
  }
}
headsAsButtons();
narrow.addEventListener("change", headsAsButtons);
document.addEventListener("click", (event) => {
  const head = event.target.closest(".heads button");
  if (!head) return;
  head.closest("[data-name]").querySelector(".strip").style.setProperty("--shown", head.dataset.side);
  for (const other of head.parentElement.children) other.setAttribute("aria-pressed", other === head);
});
