// Predictions: a form of the inputs, outputs as images, bars and tables.
import { $, el, table } from "./dom.js";

/** Most rows, columns and bars that are shown at once. */
const ROWS = 64;
const COLUMNS = 32;
const BARS = 12;

function field(feature, i) {
  const { name, type, details, optional } = feature;
  const id = `input-${i}`;
  const kind = typeof details === "string" ? details : Object.keys(details)[0];
  const hint = optional ? "empty: left out" : "empty: random";
  const control = kind === "image"
    ? el("input", { type: "file", id, accept: "image/*", "data-name": name, "data-kind": kind, "data-size": JSON.stringify({ width: details.image.width, height: details.image.height }) })
    : el("textarea", { id, rows: 1, spellcheck: "false", placeholder: `${example(kind, details)} (${hint})`, "data-name": name, "data-kind": kind });
  return el("fieldset", {}, el("legend", {}, el("label", { for: id }, name)), el("p", { class: "quiet" }, `${type}${optional ? ", optional" : ""}${kind === "image" ? `; ${hint}` : ""}`), control);
}

function example(kind, details) {
  if (kind === "multi_array") {
    const rank = Math.max(details.multi_array.shape.length, 1);
    return `JSON: ${"[".repeat(rank)}1, 2, …${"]".repeat(rank)}`;
  }
  if (kind === "dictionary") return 'JSON: {"a": 1}';
  if (kind === "sequence") return 'JSON: ["a", "b"]';
  return kind === "string" ? "a text" : "a number";
}

export function inputs(description) {
  $("run-inputs").replaceChildren(...description.inputs.map(field));
  $("run-reset").hidden = !description.states.length;
  $("run-outputs").replaceChildren();
}

/** What the user gave: texts and files by name. */
export function given() {
  const all = [];
  for (const control of $("run-inputs").querySelectorAll("[data-name]")) {
    const { name, kind, size } = control.dataset;
    if (kind === "image") {
      if (control.files[0]) all.push({ name, file: control.files[0], size: JSON.parse(size) });
    } else if (control.value.trim()) {
      all.push({ name, json: kind === "string" ? control.value : control.value.trim() });
    }
  }
  return all;
}

const number = (x) => (Number.isInteger(x) ? String(x) : String(Number(x.toPrecision(7))));

function bars(classes, what) {
  const shown = classes.slice(0, BARS);
  const most = Math.max(...shown.map(([, p]) => Math.abs(p)), 1e-30);
  const list = el("div", { class: "bars", role: "list", "aria-label": what });
  for (const [label, p] of shown) {
    const bar = el("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * Math.max(p, 0) / most}%`;
    list.append(el("span", { role: "listitem" }, label), bar, el("span", { class: "number", "data-value": p }, number(p)));
  }
  return classes.length > BARS ? el("div", {}, list, el("p", { class: "quiet" }, `and ${classes.length - BARS} more`)) : list;
}

/** A tensor as tables of its last two dimensions, with a choice of the leading ones. */
function tensor({ name, dtype, shape }, values) {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.at(-2) ?? 1;
  const tables = shape.slice(0, -2).reduce((a, b) => a * b, 1);
  const place = el("div");
  const draw = (index) => {
    const cell = (r, c) => {
      const x = values[(index * rows + r) * columns + c];
      return el("span", { "data-value": x, title: String(x) }, number(x));
    };
    const [height, width] = [Math.min(rows, ROWS), Math.min(columns, COLUMNS)];
    const head = ["", ...Array.from({ length: width }, (_, c) => String(c))];
    const body = Array.from({ length: height }, (_, r) => [String(r), ...Array.from({ length: width }, (_, c) => cell(r, c))]);
    const left = rows > height || columns > width ? el("p", { class: "quiet" }, `shown: ${height} of ${rows} rows, ${width} of ${columns} columns`) : null;
    place.replaceChildren(...[table(`Numbers of ${name}`, head, body, head.map((_, i) => i)), left].filter(Boolean));
  };
  const parts = [];
  if (!values.length) parts.push(el("p", {}, "no elements"));
  else draw(0);
  if (tables > 1) {
    const choice = el("input", { type: "number", min: 0, max: tables - 1, value: 0, oninput: () => draw(Math.min(Math.max(choice.valueAsNumber || 0, 0), tables - 1)) });
    parts.push(el("label", {}, `Table, of ${tables}: `, choice));
  }
  let [least, most, sum] = [Infinity, -Infinity, 0];
  for (const x of values) [least, most, sum] = [Math.min(least, x), Math.max(most, x), sum + x];
  const facts = values.length ? `; least ${number(least)}, most ${number(most)}, mean ${number(sum / values.length)}` : "";
  return el("div", {}, el("p", { class: "quiet" }, `${dtype} [${shape.join(", ")}]${facts}`), ...parts, place);
}

async function output(out, call) {
  switch (out.kind) {
    case "image": {
      const rgba = await call("rgba", { name: out.name });
      const canvas = el("canvas", { width: out.width, height: out.height, role: "img", "aria-label": `Image ${out.name}` });
      canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(rgba.buffer), out.width, out.height), 0, 0);
      return canvas;
    }
    case "classes": return bars(out.classes, `Classes of ${out.name}`);
    case "tensor": return tensor(out, await call("numbers", { name: out.name }));
    case "list": return el("p", {}, out.values.slice(0, 1000).join(", "));
    default: return el("p", { class: "number", "data-value": out.value }, String(out.value));
  }
}

/** Shows the outputs of a prediction. */
export async function outputs(result, call) {
  const parts = [el("h3", {}, `Outputs, after ${result.seconds.toFixed(3)} s and ${result.operations} operations`)];
  for (const note of result.notes) parts.push(el("p", { class: "quiet" }, note));
  for (const out of result.outputs) {
    parts.push(el("section", { "data-output": out.name }, el("h3", {}, out.name), await output(out, call)));
  }
  $("run-outputs").replaceChildren(...parts);
}
