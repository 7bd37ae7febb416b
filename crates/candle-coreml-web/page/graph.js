// The picture of a graph: move, zoom, search.
import { $, el } from "./dom.js";

let svg = null;
let text = "";
let box = null;
let whole = null;
let hits = [];
let at = -1;

function show() {
  svg.setAttribute("viewBox", `${box.x} ${box.y} ${box.w} ${box.h}`);
}

/** Zooms about a point of the view, given as fractions of it. */
function zoom(factor, fx = 0.5, fy = 0.5) {
  if (!svg) return;
  const w = Math.min(Math.max(box.w * factor, whole.w / 2000), whole.w * 4);
  const scale = w / box.w;
  box = { x: box.x + box.w * fx * (1 - scale), y: box.y + box.h * fy * (1 - scale), w, h: box.h * scale };
  show();
}

function move(dx, dy) {
  if (!svg) return;
  box.x += dx * box.w;
  box.y += dy * box.h;
  show();
}

function fit() {
  if (!svg) return;
  // As wide as the view, from the top: pictures of deep networks are long.
  const { clientWidth, clientHeight } = $("graph-view");
  const w = whole.w;
  const h = w * (clientHeight / Math.max(clientWidth, 1));
  box = { x: whole.x, y: whole.y, w, h };
  show();
}

/** Shows a picture, given as text. */
export function draw(source) {
  text = source;
  const parsed = new DOMParser().parseFromString(source, "image/svg+xml").documentElement;
  svg = document.importNode(parsed, true);
  const [x, y, w, h] = (svg.getAttribute("viewBox") ?? `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`).split(/[ ,]+/).map(parseFloat);
  whole = { x, y, w, h };
  svg.removeAttribute("width");
  svg.removeAttribute("height");
  $("graph-view").replaceChildren(svg);
  [hits, at] = [[], -1];
  $("graph-found").textContent = "";
  fit();
}

function find(event) {
  event.preventDefault();
  if (!svg) return;
  const query = $("graph-query").value.trim().toLowerCase();
  for (const old of svg.querySelectorAll(".found")) old.classList.remove("found");
  const next = query ? [...svg.querySelectorAll("text")].filter((t) => t.textContent.toLowerCase().includes(query)) : [];
  at = next.length && next.length === hits.length && next[0] === hits[0] ? (at + 1) % next.length : 0;
  hits = next;
  $("graph-found").textContent = query ? (hits.length ? `${at + 1} of ${hits.length}: ${hits[at].textContent}` : "not found") : "";
  if (!hits.length) return;
  hits[at].classList.add("found");
  const { x, y, width, height } = hits[at].getBBox();
  const matrix = svg.getCTM().inverse().multiply(hits[at].getCTM());
  const center = new DOMPoint(x + width / 2, y + height / 2).matrixTransform(matrix);
  const w = Math.min(box.w, 900);
  const h = w * (box.h / box.w);
  box = { x: center.x - w / 2, y: center.y - h / 2, w, h };
  show();
}

const fingers = new Map();
let spread = 0;

function point(event) {
  const view = $("graph-view").getBoundingClientRect();
  return { x: (event.clientX - view.left) / view.width, y: (event.clientY - view.top) / view.height };
}

function dragged(event) {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = point(event);
  fingers.set(event.pointerId, now);
  if (fingers.size === 1) return move(before.x - now.x, before.y - now.y);
  const [a, b] = [...fingers.values()];
  const distance = Math.hypot(a.x - b.x, a.y - b.y);
  if (spread && distance) zoom(spread / distance, (a.x + b.x) / 2, (a.y + b.y) / 2);
  spread = distance;
}

const KEYS = {
  ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0), ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
  "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), 0: fit,
};

export function listen() {
  const view = $("graph-view");
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = point(event);
    zoom(Math.exp(event.deltaY / 400), x, y);
  }, { passive: false });
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, point(event));
    spread = 0;
  });
  view.addEventListener("pointermove", dragged);
  for (const end of ["pointerup", "pointercancel"]) {
    view.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      spread = 0;
    });
  }
  view.addEventListener("keydown", (event) => {
    const key = KEYS[event.key];
    if (key && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      key();
    }
  });
  $("graph-in").onclick = () => zoom(0.7);
  $("graph-out").onclick = () => zoom(1.4);
  $("graph-fit").onclick = fit;
  $("graph-find").addEventListener("submit", find);
  $("graph-save").onclick = () => {
    const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    el("a", { href: url, download: "graph.svg" }).click();
    URL.revokeObjectURL(url);
  };
}
