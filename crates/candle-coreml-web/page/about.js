// The description of a model, and the estimate for the Neural Engine.
import { bytes, el, table } from "./dom.js";

const percent = (share) => `${(100 * share).toFixed(1)}%`;

export function about(panel, model) {
  const { metadata } = model;
  const facts = [
    ["Type", model.type],
    ["Stages", model.stages.join(", ")],
    ["Specification", String(model.specification_version)],
    ["Default function", model.default_function],
    ["Description", metadata.description],
    ["Author", metadata.author],
    ["Version", metadata.version],
    ["Licence", metadata.license],
    ...Object.entries(metadata.user ?? {}),
  ].filter(([, value]) => value);
  const parts = [el("dl", {}, ...facts.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]))];
  if (model.cannot_run) parts.unshift(el("p", { class: "refused" }, `It can't be run: ${model.cannot_run}`));
  for (const { name, opset, inputs, outputs, states } of model.functions) {
    parts.push(el("h3", {}, `Function ${name}${opset ? ` (${opset})` : ""}`));
    const row = (kind) => (f) => [kind, el("code", {}, f.name), f.type + (f.optional ? ", optional" : ""), f.description];
    parts.push(table(`Features of ${name}`, ["", "Name", "Type", "Description"],
      [...inputs.map(row("input")), ...outputs.map(row("output")), ...states.map(row("state"))]));
  }
  if (model.class_labels) {
    const labels = model.class_labels;
    parts.push(el("details", {}, el("summary", {}, `${labels.length} class labels`), el("p", {}, labels.slice(0, 2000).join(", "))));
  }
  if (model.weights.length) {
    const all = model.weights.reduce((sum, w) => sum + w.bytes, 0);
    parts.push(el("h3", {}, `Weights: ${bytes(all)}`));
    parts.push(table("Weights by compression and element type", ["Form", "Blobs", "Bytes", "Share"],
      model.weights.map((w) => [w.form, w.count.toLocaleString("en"), w.bytes.toLocaleString("en"), percent(w.bytes / all)]), [1, 2, 3]));
  }
  const operations = Object.entries(model.operations).sort((a, b) => b[1] - a[1]);
  if (operations.length) {
    const all = operations.reduce((sum, [, n]) => sum + n, 0);
    parts.push(el("h3", {}, `Operations of all functions: ${all.toLocaleString("en")}`));
    parts.push(table("Operations by type", ["Operation", "Count"], operations.map(([name, n]) => [el("code", {}, name), n.toLocaleString("en")]), [1]));
  }
  panel.replaceChildren(...parts);
}

export function ane(panel, { note, functions }) {
  const parts = [el("p", { class: "quiet" }, note)];
  for (const { estimate, reasons } of functions) {
    parts.push(el("h3", {}, `Function ${estimate.function}: ${estimate.operations.length} operations, needs ${estimate.needs}`));
    parts.push(table(`Verdicts on ${estimate.function}`, ["Verdict", "Operations", "Multiplications"],
      Object.entries(estimate.counts).map(([verdict, count]) => {
        const share = estimate.shares_of_multiplications[verdict];
        return [el("span", { class: verdict }, verdict), String(count), share === null ? "" : percent(share)];
      }), [1, 2]));
    if (reasons.length) {
      parts.push(table(`Reasons against the Neural Engine in ${estimate.function}`, ["Verdict", "Rule", "Operations", "Such as"],
        reasons.map(({ reason, kinds }) => [el("span", { class: reason.verdict }, reason.verdict), reason.rule,
          Object.entries(kinds).map(([kind, n]) => `${kind} ${n}`).join(", "), reason.message])));
    }
  }
  panel.replaceChildren(...parts);
}
