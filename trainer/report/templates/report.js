"use strict";

// Nothing here writes HTML: names and labels are put in as text.

const PER_PAGE = matchMedia("(max-width: 30rem)").matches ? 16 : 48;
const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function percent(value, digits = 0) {
  return `${(100 * value).toFixed(digits)}%`;
}

// Tables: a heading's button sorts by its column; what has no figure stays below.
function sortBy(button) {
  const heading = button.closest("th");
  const table = heading.closest("table");
  const column = [...heading.parentElement.children].indexOf(heading);
  const before = heading.getAttribute("aria-sort");
  const first = button.dataset.first === "ascending" ? "ascending" : "descending";
  const second = first === "ascending" ? "descending" : "ascending";
  const direction = before === first ? second : first;
  const sign = direction === "ascending" ? 1 : -1;
  const isText = button.dataset.kind === "text";
  const order = (one, other) => {
    const [a, b] = [one, other].map((row) => row.children[column].dataset.sort);
    if (isText) return sign * a.localeCompare(b, undefined, { numeric: true });
    if (Number(a) < 0 || Number(b) < 0) return Number(b) - Number(a);
    return sign * (Number(a) - Number(b));
  };
  table.querySelectorAll("thead th").forEach((other) => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", direction);
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(order));
}

document.querySelectorAll(".sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));

// Photos: columns of figures; thumbnails come in pieces that are read when one of their photos is shown.
const photos = JSON.parse(byId("photo-data").textContent);
const pieces = [...document.querySelectorAll(".piece")];
const readPieces = new Map();
const filters = byId("filters");
const gallery = byId("gallery");
let shown = [];
let page = 0;

function picture(index) {
  const number = Math.floor(index / photos.piece);
  if (!pieces[number]) return null;
  if (!readPieces.has(number)) readPieces.set(number, JSON.parse(pieces[number].textContent));
  const data = readPieces.get(number)[index % photos.piece];
  return data && `data:image/jpeg;base64,${data}`;
}

function nameOf(index) {
  if (photos.names) return photos.names[index];
  return photos.lines[index] ? `line ${photos.lines[index]} of split.csv` : "a photo";
}

const isRight = (index) => photos.truth[index] === photos.predicted[index];

function answer(index) {
  const said = photos.labels[photos.predicted[index]];
  const line = element("span", undefined, isRight(index) ? "ok" : "wrong");
  line.textContent = `${isRight(index) ? "✓" : "✗"} ${said} ${percent(photos.scores[index])}`;
  return line;
}

const ORDERS = {
  loss: (a, b) => photos.losses[b] - photos.losses[a],
  sure: (a, b) => photos.scores[b] - photos.scores[a],
  unsure: (a, b) => photos.scores[a] - photos.scores[b],
  file: (a, b) => (photos.lines[a] || 0) - (photos.lines[b] || 0),
};

function choose() {
  const wanted = Object.fromEntries(new FormData(filters));
  const fits = (index) =>
    (!wanted.part || photos.parts[index] === wanted.part) &&
    (!wanted.truth || photos.truth[index] === Number(wanted.truth)) &&
    (!wanted.predicted || photos.predicted[index] === Number(wanted.predicted)) &&
    (!wanted.answer || isRight(index) === (wanted.answer === "right"));
  shown = photos.truth.map((_, index) => index).filter(fits).sort(ORDERS[wanted.order]);
  page = 0;
  drawPage();
}

function card(index, place) {
  const item = element("li");
  const button = element("button");
  button.type = "button";
  button.dataset.place = place;
  const data = picture(index);
  if (data) {
    const image = element("img");
    image.alt = "";
    image.decoding = "async";
    image.src = data;
    button.append(image);
  } else {
    button.append(element("span", nameOf(index), "plain"));
  }
  const tag = element("span", undefined, "tag");
  tag.append(element("b", photos.labels[photos.truth[index]]), answer(index));
  // For those who do not see the sign, or the picture.
  button.append(tag, element("span", `, ${isRight(index) ? "right" : "wrong"}, ${nameOf(index)}`, "quiet"));
  item.append(button);
  return item;
}

function drawPage() {
  const start = page * PER_PAGE;
  const part = shown.slice(start, start + PER_PAGE);
  gallery.replaceChildren(...part.map((index, offset) => card(index, start + offset)));
  const wrong = shown.filter((index) => !isRight(index)).length;
  byId("photo-count").textContent = shown.length
    ? `${shown.length} photos, ${wrong} of them wrong`
    : "No photo fits these filters.";
  byId("page-place").textContent = shown.length ? `${start + 1} to ${start + part.length} of ${shown.length}` : "";
  byId("page-before").disabled = page === 0;
  byId("page-after").disabled = start + PER_PAGE >= shown.length;
  byId("pages").hidden = shown.length <= PER_PAGE;
}

function turn(by) {
  const used = document.activeElement;
  page += by;
  drawPage();
  // A disabled button loses the focus to the page, and the keys with it.
  if (used.disabled) byId(by > 0 ? "page-before" : "page-after").focus({ preventScroll: true });
  byId("photos").scrollIntoView();
}

// Zoom: one dialog for photos, with neighbours, and for sheets.
const zoom = byId("zoom");
let zoomed = -1;

function facts(index) {
  const list = element("dl", undefined, "facts");
  const add = (name, value) => {
    const row = element("div");
    row.append(element("dt", name), element("dd", value));
    list.append(row);
  };
  add("True class", photos.labels[photos.truth[index]]);
  add("Answer", `${isRight(index) ? "✓ right" : "✗ wrong"}: ${photos.labels[photos.predicted[index]]}`);
  photos.best[index].forEach(([label, score]) => add(photos.labels[label], percent(score, 1)));
  add("Loss", photos.losses[index].toFixed(2));
  if (photos.unknown[index] !== null) add("Unknown score", photos.unknown[index].toFixed(3));
  add("Part", photos.parts[index] === "val" ? "validation" : photos.parts[index]);
  return list;
}

function showZoom(title, source, details) {
  byId("zoom-title").textContent = title;
  const image = byId("zoom-picture");
  image.hidden = !source;
  if (source) image.src = source;
  else image.removeAttribute("src");
  image.alt = title;
  byId("zoom-facts").replaceChildren(...(details ? [details] : []));
  byId("zoom-facts").hidden = byId("zoom-moves").hidden = !details;
  zoom.classList.toggle("wide", !details && image.naturalWidth > 400);
  if (!zoom.open) zoom.showModal();
}

function zoomPhoto(place) {
  if (place < 0 || place >= shown.length) return;
  zoomed = place;
  if (Math.floor(place / PER_PAGE) !== page) {
    page = Math.floor(place / PER_PAGE);
    drawPage();
  }
  showZoom(nameOf(shown[place]), picture(shown[place]), facts(shown[place]));
  byId("zoom-place").textContent = `${place + 1} of ${shown.length}`;
  const ends = { "zoom-before": place === 0, "zoom-after": place + 1 >= shown.length };
  const focused = document.activeElement.id;
  for (const [id, end] of Object.entries(ends)) byId(id).disabled = end;
  // A disabled button loses the focus to the page behind, and the keys with it.
  if (ends[focused]) byId("zoom-close").focus();
}

const cards = () => [...gallery.querySelectorAll("button")];

function across() {
  const tops = cards().map((button) => button.getBoundingClientRect().top);
  const next = tops.findIndex((top) => top > tops[0] + 1);
  return next < 0 ? tops.length : next;
}

const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -across(), ArrowDown: across };

function moveFocus(event) {
  const all = cards();
  const at = all.indexOf(document.activeElement);
  if (at < 0 || !MOVES[event.key]) return;
  event.preventDefault();
  const next = all[at + MOVES[event.key]()];
  if (next) next.focus();
}

zoom.addEventListener("keydown", (event) => {
  if (zoomed < 0) return;
  if (event.key === "ArrowLeft") zoomPhoto(zoomed - 1);
  if (event.key === "ArrowRight") zoomPhoto(zoomed + 1);
});
zoom.addEventListener("click", (event) => {
  if (event.target === zoom) zoom.close();
});
zoom.addEventListener("close", () => {
  const again = gallery && gallery.querySelector(`[data-place="${zoomed}"]`);
  if (again) again.focus();
  zoomed = -1;
});
byId("zoom-close").addEventListener("click", () => zoom.close());
byId("zoom-before").addEventListener("click", () => zoomPhoto(zoomed - 1));
byId("zoom-after").addEventListener("click", () => zoomPhoto(zoomed + 1));
document.querySelectorAll(".sheet").forEach((button) =>
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    zoomed = -1;
    showZoom(image.alt, image.src, null);
  }),
);

if (filters) {
  for (const name of ["truth", "predicted"]) {
    filters.elements[name].append(...photos.labels.map((label, index) => new Option(label, index)));
  }
  // A run that tested nothing yet may have validation photos.
  if (!photos.parts.includes("test")) {
    [...filters.elements.part.options].forEach((option) => { option.defaultSelected = !option.value; });
    filters.reset();
  }
  filters.addEventListener("change", choose);
  filters.addEventListener("submit", (event) => event.preventDefault());
  // The fields have their first values only after the event.
  filters.addEventListener("reset", () => setTimeout(choose));
  byId("page-before").addEventListener("click", () => turn(-1));
  byId("page-after").addEventListener("click", () => turn(1));
  gallery.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) zoomPhoto(Number(button.dataset.place));
  });
  gallery.addEventListener("keydown", moveFocus);
  document.querySelectorAll(".cell").forEach((button) =>
    button.addEventListener("click", () => {
      filters.reset();
      filters.elements.truth.value = button.dataset.true;
      filters.elements.predicted.value = button.dataset.predicted;
      setTimeout(() => byId("photos").scrollIntoView());
    }),
  );
  choose();
}

// What is folded is printed too.
window.addEventListener("beforeprint", () =>
  document.querySelectorAll("details:not([open])").forEach((folded) => {
    folded.open = true;
    folded.dataset.folded = "";
  }),
);
window.addEventListener("afterprint", () =>
  document.querySelectorAll("[data-folded]").forEach((folded) => {
    folded.open = false;
    delete folded.dataset.folded;
  }),
);
