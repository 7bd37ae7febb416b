// Elements of the page.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and content; what begins with `on` is a listener. */
export function el(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...content.filter((c) => c !== null && c !== undefined));
  return element;
}

/** A table with a caption for screen readers, in a box that scrolls. */
export function table(caption, head, rows, numbers = []) {
  const cell = (name) => (value, i) => el(name, { class: numbers.includes(i) ? "number" : null, scope: name === "th" ? "col" : null }, value);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "name" }, caption),
      el("thead", {}, el("tr", {}, ...head.map(cell("th")))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td")))))));
}

export function options(select, values) {
  select.replaceChildren(...values.map((value) => el("option", { value }, value)));
}

export function bytes(n) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (n >= size) return `${(n / size).toFixed(1)} ${unit}`;
  }
  return `${n} bytes`;
}
