// The page: what is dropped, which view is shown, on what the user waits. All computing is in worker.js.
import * as about from "./about.js";
import { $, bytes, el, options } from "./dom.js";
import { Cancelled, call, cancel } from "./engine.js";
import * as graph from "./graph.js";
import * as run from "./run.js";

let files = [];
let found = null;
let model = null;
let messages = [];
/** What is shown of the model: views are filled when they are first looked at. */
let filled = new Set();
let loaded = null;

function fail(error) {
  if (error instanceof Cancelled) return say("Cancelled.");
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function say(text) {
  $("work-text").textContent = text;
}

/** Runs a task with progress and Cancel; its error is shown. Only one at a time. */
let busy = false;
async function task(text, work) {
  if (busy) return undefined;
  busy = true;
  $("error").hidden = true;
  say(text);
  const bar = $("work").querySelector("progress");
  bar.removeAttribute("value");
  // What is done at once needs no bar.
  const late = setTimeout(() => { $("work").hidden = false; }, 150);
  try {
    return await work(bar);
  } catch (error) {
    fail(error);
    return undefined;
  } finally {
    clearTimeout(late);
    $("work").hidden = true;
    busy = false;
  }
}

// Files.

async function entries(entry, path, into) {
  if (entry.isFile) {
    into.push({ path: path + entry.name, file: await new Promise((done, failed) => entry.file(done, failed)) });
    return;
  }
  const reader = entry.createReader();
  // A call gives some of them.
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const inner of some) await entries(inner, `${path}${entry.name}/`, into);
  }
}

async function dropped(transfer) {
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const all = [];
  for (const root of roots) await entries(root, "", all);
  return all.length ? all : [...transfer.files].map((file) => ({ path: file.name, file }));
}

async function open(given) {
  const all = await given;
  if (!all.length) return;
  await task(`Opening ${all.length} ${all.length === 1 ? "file" : "files"}…`, async (bar) => {
    $("model").hidden = true;
    loaded = null;
    files = all;
    found = await call("open", { files }, ({ read, total }) => {
      bar.value = total ? read / total : 1;
      say(`Read ${bytes(read)} of ${bytes(total)}`);
    });
    options($("model-select"), found.models);
    $("model-choice").hidden = found.models.length < 2;
    $("tab-chat").hidden = found.language === null;
    messages = [];
    $("chat-log").replaceChildren();
    $("chat-facts").textContent = "";
    await choose(found.models[0]);
    $("drop").classList.add("small");
    select(found.language === null ? "about" : "chat");
    $("model-title").focus();
  });
}

async function choose(path) {
  say(`Describing ${path}…`);
  const description = await call("describe", { model: path });
  model = { path, ...description };
  filled = new Set();
  loaded = null;
  $("model-title").textContent = path.split("/").at(-1);
  $("model-facts").textContent = `${model.type}, ${bytes(found.size)}${found.models.length > 1 ? ` in ${found.models.length} models` : ""}`;
  about.about($("about"), model);
  const names = model.functions.map((f) => f.name);
  for (const id of ["graph-function", "run-function"]) {
    options($(id), names);
    if (names.includes(model.default_function)) $(id).value = model.default_function;
  }
  for (const tab of ["graph", "ane", "run"]) $(`tab-${tab}`).disabled = Boolean(model.cannot_run);
  form();
  $("model").hidden = false;
}

// Views.

const tabs = () => [...$("tabs").children].filter((tab) => !tab.hidden && !tab.disabled);

function select(name) {
  for (const tab of $("tabs").children) {
    const own = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", own);
    tab.tabIndex = own ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !own;
  }
  fill(name);
}

async function fill(name) {
  if (filled.has(name) || !model) return;
  if (name === "graph") await picture();
  if (name === "ane") {
    await task("Estimating…", async () => {
      about.ane($("ane"), await call("ane", { model: model.path }));
      filled.add(name);
    });
  }
}

function picture() {
  return task("Drawing…", async () => {
    const name = $("graph-function").value || undefined;
    graph.draw(await call("svg", { model: model.path, name, unfold: $("graph-unfold").checked }));
    filled.add("graph");
  });
}

// Predictions.

function form() {
  const chosen = model.functions.find((f) => f.name === $("run-function").value) ?? model.functions[0];
  if (chosen) run.inputs(chosen);
}

/** Loads the chosen function, if it is not. */
async function load() {
  const name = $("run-function").value || undefined;
  if (loaded === name && loaded !== null) return;
  loaded = null;
  say("Loading…");
  await call("load", { model: model.path, name });
  loaded = name;
}

function predict(event) {
  event.preventDefault();
  return task("Predicting…", async () => {
    try {
      await load();
      const seed = $("run-seed").valueAsNumber || 0;
      say("Predicting…");
      const result = await call("predict", { inputs: run.given(), seed }, ({ operations, seconds }) => say(`Operation ${operations}, ${seconds.toFixed(1)} s`));
      await run.outputs(result, call);
    } catch (error) {
      if (error instanceof Cancelled) loaded = null;
      throw error;
    }
  });
}

// Chat.

function bubble(role, text) {
  const p = el("p", { class: role }, el("span", { class: "name" }, role === "user" ? "You: " : "Model: "), text);
  $("chat-log").append(p);
  $("chat-log").scrollTop = $("chat-log").scrollHeight;
  return p;
}

async function talk(event) {
  event?.preventDefault();
  const text = $("chat-text").value.trim();
  if (!text || busy) return;
  messages.push({ role: "user", content: text });
  bubble("user", text);
  $("chat-text").value = "";
  const answer = document.createTextNode("");
  bubble("assistant", answer);
  $("chat-send").disabled = true;
  $("chat-stop").disabled = false;
  const summary = await task("Answering…", () => {
    const heat = $("chat-heat").valueAsNumber;
    const request = { messages, most: $("chat-most").valueAsNumber || 256, heat: Number.isNaN(heat) ? undefined : heat, seed: Math.floor(Math.random() * 2 ** 32) };
    return call("say", request, ({ text }) => {
      answer.data += text;
      $("chat-log").scrollTop = $("chat-log").scrollHeight;
    });
  });
  $("chat-send").disabled = false;
  $("chat-stop").disabled = true;
  if (!summary) {
    messages.pop();
    answer.data ||= "(no answer)";
    return;
  }
  answer.data = summary.text;
  messages.push({ role: "assistant", content: summary.text });
  const rate = summary.decode_steps ? `, ${summary.decode_rate.toFixed(1)} tokens per second` : "";
  $("chat-facts").textContent = `${summary.tokens} tokens${rate}; prompt: ${summary.prefill_tokens} tokens, ${summary.prefill_rate.toFixed(1)} per second; ended: ${summary.stop_reason.replaceAll("_", " ")}`;
}

// The model that ships with the page.

async function example() {
  const root = "models/tiny-qwen3";
  const get = async (path) => {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const names = await (await get(`${root}.json`)).json();
  return Promise.all(names.map(async (name) => ({ path: `tiny-qwen3/${name}`, file: await (await get(`${root}/${name}`)).blob() })));
}

function listen() {
  $("pick-files").onclick = () => $("files").click();
  $("pick-folder").onclick = () => $("folder").click();
  for (const id of ["files", "folder"]) {
    $(id).addEventListener("change", ({ target }) => {
      open([...target.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
      target.value = "";
    });
  }
  $("example").onclick = () => example().then(open).catch(fail);
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    dropped(event.dataTransfer).then(open).catch(fail);
  });
  $("cancel").onclick = cancel;
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && busy) cancel(); });
  $("model-select").addEventListener("change", ({ target }) => task("Describing…", async () => {
    await choose(target.value);
    select("about");
  }));
  for (const tab of $("tabs").children) tab.onclick = () => select(tab.id.slice(4));
  $("tabs").addEventListener("keydown", (event) => {
    const all = tabs();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    select(next.id.slice(4));
  });
  $("graph-function").addEventListener("change", picture);
  $("graph-unfold").addEventListener("change", picture);
  $("run-function").addEventListener("change", form);
  $("run-form").addEventListener("submit", predict);
  $("run-reset").onclick = () => task("Setting states to zero…", async () => {
    await load();
    await call("reset");
  });
  $("chat-form").addEventListener("submit", talk);
  $("chat-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) talk(event);
  });
  $("chat-stop").onclick = () => call("stop");
  $("chat-new").onclick = () => {
    messages = [];
    $("chat-log").replaceChildren();
    $("chat-facts").textContent = "";
  };
  graph.listen();
}

listen();
// Kept for the time without a network. Not everywhere allowed, and never needed.
navigator.serviceWorker?.register("offline.js").catch(() => {});
