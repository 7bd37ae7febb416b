// The page in a real browser, without a screen: node tools/web_tests/test.mjs PAGE COMMAND [SCREENSHOTS]
//   PAGE         folder of `cargo xtask web`
//   COMMAND      the built `candle-coreml`, whose numbers are expected
//   SCREENSHOTS  folder for pictures of the page
//   CHROMIUM     the browser (/usr/bin/chromium)
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { chromium } from "playwright-core";
import { large } from "./large.mjs";
import { png } from "./png.mjs";
import { serve } from "./serve.mjs";

const [page_folder, command, pictures] = process.argv.slice(2);
const scratch = mkdtempSync(join(tmpdir(), "web-"));
const server = await serve(page_folder);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
const page = await context.newPage();
const complaints = [];
const asked = [];
page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
page.on("pageerror", (error) => complaints.push(String(error)));
context.on("request", (request) => asked.push(request.url()));

async function picture(name) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`) });
}

/** Files below a folder, by path from its parent on. */
function below(folder, prefix = basename(folder)) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? below(path, `${prefix}/${entry.name}`) : [{ path: `${prefix}/${entry.name}`, bytes: readFileSync(path).toString("base64") }];
  });
}

/** Drops files as a system does: an event with a transfer that has them. Folders are given as those of the page's own choice. */
async function drop(files) {
  await page.evaluate(async (all) => {
    const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const entry = (path, file) => ({ isFile: true, name: path, file: (done) => done(file) });
    const items = all.map(({ path, bytes }) => {
      const file = new File([decode(bytes)], path.split("/").at(-1));
      return { webkitGetAsEntry: () => entry(path, file) };
    });
    const event = new Event("drop", { bubbles: true, cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: { items, files: [] } });
    document.dispatchEvent(event);
  }, files);
}

/** Drops a folder of the disk, whose bytes the test itself never has. */
async function drop_folder(folder) {
  await page.evaluate(() => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", id: "test-folder", webkitdirectory: true, hidden: true });
    document.body.append(input);
  });
  await page.setInputFiles("#test-folder", folder);
  await page.evaluate(() => {
    const input = document.getElementById("test-folder");
    const entry = (file) => ({ isFile: true, name: file.webkitRelativePath, file: (done) => done(file) });
    const items = [...input.files].map((file) => ({ webkitGetAsEntry: () => entry(file) }));
    const event = new Event("drop", { bubbles: true, cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: { items, files: [] } });
    document.dispatchEvent(event);
    input.remove();
  });
}

/** Counts how late the page's thread comes to a timer of 5 ms, until `stop_clock`. */
const start_clock = () => page.evaluate(() => {
  const late = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(now - last - 5);
    last = now;
  }, 5);
  window.stopClock = () => { clearInterval(timer); return late; };
});
async function stop_clock() {
  const late = (await page.evaluate(() => window.stopClock())).sort((a, b) => a - b);
  return { ticks: late.length, p99: late[Math.floor(0.99 * (late.length - 1))], most: late.at(-1) };
}

/** Waits until the page has nothing to do. */
const settled = () => page.waitForFunction(() => document.getElementById("work").hidden && (!document.getElementById("model").hidden || !document.getElementById("error").hidden), null, { timeout: 30000 });
/** Waits until a model of this name is open, and nothing is to do. */
async function opened(name) {
  const is = (wanted) => !document.getElementById("error").hidden || (document.getElementById("model-title").textContent === wanted && !document.getElementById("model").hidden);
  await page.waitForFunction(is, name, { timeout: 60000 });
  assert.ok(await page.locator("#error").isHidden(), await error());
  await settled();
}
const error = () => page.locator("#error").textContent();

const tests = {
  async "a dropped package is described"() {
    await drop(below("models/tiny-intent/intent.mlpackage"));
    await settled();
    assert.equal(await page.locator("#model-title").textContent(), "intent.mlpackage");
    const about = await page.locator("#about").textContent();
    for (const part of ["input_ids", "attention_mask", "logits", "Weights", "Operations"]) assert.ok(about.includes(part), part);
    await picture("description");
  },

  async "it predicts the numbers of the command"() {
    writeFileSync(join(scratch, "values.jsonl"), '{"input_ids": [[2, 40, 41, 3]], "attention_mask": [[1, 1, 1, 1]]}\n');
    const told = execFileSync(command, ["predict", "models/tiny-intent/intent.mlpackage", "--inputs", join(scratch, "values.jsonl")], { encoding: "utf8" });
    const wanted = JSON.parse(told).logits.flat();
    await page.click("#tab-run");
    await page.fill("[data-name=input_ids]", "[[2, 40, 41, 3]]");
    await page.fill("[data-name=attention_mask]", "[[1, 1, 1, 1]]");
    await page.click("#run-form button.main");
    await page.waitForSelector("[data-output=logits] [data-value]");
    const found = await page.locator("[data-output=logits] [data-value]").evaluateAll((all) => all.map((e) => Number(e.dataset.value)));
    assert.equal(found.length, wanted.length);
    // Sums of products in another order: to a few units in the last place of f16.
    for (const [i, x] of wanted.entries()) assert.ok(Math.abs(found[i] - x) <= 2e-3 * Math.max(1, Math.abs(x)), `${i}: ${found[i]}, ${x}`);
    await picture("prediction");
  },

  async "what is typed wrongly is told"() {
    await page.fill("[data-name=input_ids]", "[[2, 40], [3]]");
    await page.click("#run-form button.main");
    await page.waitForSelector("#error:not([hidden])");
    assert.match(await error(), /input_ids.*equal lengths/);
    // Both of one length, made up.
    await page.fill("[data-name=input_ids]", "");
    await page.fill("[data-name=attention_mask]", "");
    await page.click("#run-form button.main");
    await page.waitForSelector("#error", { state: "hidden" });
  },

  async "the graph can be searched and the estimate read"() {
    await page.click("#tab-graph");
    await page.waitForSelector("#graph-view svg text");
    await page.fill("#graph-query", "softmax");
    await page.press("#graph-query", "Enter");
    await page.waitForFunction(() => /^1 of \d+/.test(document.getElementById("graph-found").textContent));
    const before = await page.locator("#graph-view svg").getAttribute("viewBox");
    await page.focus("#graph-view");
    await page.keyboard.press("+");
    assert.notEqual(await page.locator("#graph-view svg").getAttribute("viewBox"), before);
    await picture("graph");
    await page.click("#tab-ane");
    await page.waitForSelector("#ane table");
    assert.match(await page.locator("#ane").textContent(), /likely/);
    await picture("estimate");
  },

  async "an image is predicted as the command does, with bars of its classes"() {
    const { classifier } = JSON.parse(readFileSync("conformance/neural_networks/models.json", "utf8"));
    const [, , height, width] = classifier.shape;
    const file = join(scratch, "picture.png");
    writeFileSync(file, png(width, height, (x, y) => [0, 1, 2].map((c) => classifier.pixels[(c * height + y) * width + x])));
    const told = JSON.parse(execFileSync(command, ["predict", "conformance/neural_networks/classifier.mlmodel", "--image", `picture=${file}`], { encoding: "utf8" }));
    await drop([{ path: "classifier.mlmodel", bytes: readFileSync("conformance/neural_networks/classifier.mlmodel").toString("base64") }]);
    await opened("classifier.mlmodel");
    await page.click("#tab-run");
    await page.setInputFiles("[data-name=picture]", file);
    await page.click("#run-form button.main");
    await page.waitForSelector("[data-output=probabilities] .bars");
    assert.equal(await page.locator("#run-outputs .quiet").count(), 0, "its size fits: nothing is scaled");
    const labels = await page.locator("[data-output=probabilities] [role=listitem]").allTextContents();
    const found = await page.locator("[data-output=probabilities] [data-value]").evaluateAll((all) => all.map((e) => Number(e.dataset.value)));
    const widths = await page.locator("[data-output=probabilities] .bar").evaluateAll((all) => all.map((e) => e.getBoundingClientRect().width));
    assert.deepEqual(labels, ["dog", "cat"]);
    assert.equal(await page.locator("[data-output=label] [data-value]").textContent(), told.label);
    for (const [i, label] of labels.entries()) {
      assert.ok(Math.abs(found[i] - told.probabilities[label]) <= 1e-6, `${label}: ${found[i]}, the command: ${told.probabilities[label]}`);
      // NumPy's, by tools/network_models.py.
      assert.ok(Math.abs(found[i] - classifier.probabilities[label === "cat" ? 0 : 1]) <= 1e-5, `${label}: ${found[i]}`);
    }
    assert.ok(Math.abs(widths[1] / widths[0] - found[1] / found[0]) < 0.02, `bars of ${widths}`);
    await picture("classes");
    // An image of another size is scaled, and the page says so.
    writeFileSync(file, png(40, 30, (x, y) => [6 * x, 8 * y, 99]));
    await page.setInputFiles("[data-name=picture]", file);
    await page.click("#run-form button.main");
    await page.waitForSelector("#run-outputs .quiet");
    assert.match(await page.locator("#run-outputs .quiet").first().textContent(), /picture: scaled from 40 × 30/);
  },

  async "a model of 100 MB does not stop the page"() {
    const folder = large(command, scratch);
    await start_clock();
    const began = Date.now();
    await drop_folder(folder);
    await opened("StatefulModel.mlpackage");
    const seconds = (Date.now() - began) / 1000;
    assert.match(await page.locator("#model-facts").textContent(), /10\d(\.\d)? MB/);
    await page.click("#tab-run");
    await page.fill("[data-name=inputIds]", "[[5, 6, 7]]");
    await page.fill("[data-name=causalMask]", JSON.stringify([[[[0, -1e4, -1e4], [0, 0, -1e4], [0, 0, 0]]]]));
    await page.click("#run-form button.main");
    await page.waitForSelector("[data-output=logits] [data-value]", { timeout: 60000 });
    const { ticks, p99, most } = await stop_clock();
    console.log(`   opened in ${seconds.toFixed(1)} s; the page's thread was late by ${p99.toFixed(0)} ms (99 % of ${ticks} ticks), at most ${most.toFixed(0)} ms`);
    assert.ok(most < 500, `the page stood still for ${most} ms`);
    await picture("large");
  },

  async "hostile files are errors that name them"() {
    for (const [name, bytes, part] of [
      ["bad.mlmodel", Buffer.from([255, 255, 255, 255]), "bad.mlmodel"],
      ["bad.zip", Buffer.from("PK\x03\x04 and no more"), "not a zip archive"],
      ["page.mlmodel", Buffer.from("<!DOCTYPE html>"), "a web page"],
    ]) {
      await drop([{ path: name, bytes: bytes.toString("base64") }]);
      await page.waitForSelector("#error:not([hidden])");
      assert.ok((await error()).includes(part), await error());
      await page.evaluate(() => { document.getElementById("error").hidden = true; });
    }
  },

  async "the language model that ships answers 82"() {
    await page.click("#example");
    await page.waitForSelector("#chat:not([hidden])");
    await settled();
    await page.fill("#chat-text", "What is 37 + 45?");
    await page.press("#chat-text", "Enter");
    await page.waitForFunction(() => document.getElementById("chat-facts").textContent.includes("tokens"), null, { timeout: 30000 });
    assert.match(await page.locator("#chat-log p.assistant").textContent(), /82/);
    console.log(`   ${await page.locator("#chat-facts").textContent()}`);
    await picture("chat");
  },

  async "what takes long can be cancelled, and the next call works"() {
    // A model that is loaded, and a prediction that is cancelled before its answer comes.
    await page.selectOption("#model-select", { index: 0 });
    await settled();
    await page.click("#tab-run");
    await page.evaluate(() => {
      document.querySelector("#run-form button.main").click();
      document.getElementById("cancel").click();
    });
    await page.waitForFunction(() => document.getElementById("work-text").textContent === "Cancelled.");
    await page.click("#run-form button.main");
    await page.waitForSelector("#run-outputs [data-output]", { timeout: 30000 });
    assert.equal(await page.locator("#error").isHidden(), true);
  },

  async "it fits a phone, and the dark"() {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.emulateMedia({ colorScheme: "dark" });
    for (const tab of ["about", "graph", "run", "chat"]) {
      await page.click(`#tab-${tab}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= 360, `${tab}: ${wide} pixels wide`);
      await picture(`phone-dark-${tab}`);
    }
    await page.setViewportSize({ width: 1200, height: 900 });
    await picture("dark");
    await page.emulateMedia({ colorScheme: "light" });
  },

  async "it works without a network"() {
    await page.waitForFunction(() => navigator.serviceWorker.ready.then((r) => r.active?.state === "activated"), null, { timeout: 30000 });
    server.close();
    await context.setOffline(true);
    await page.reload();
    await page.click("#example");
    await page.waitForSelector("#chat:not([hidden])");
    await context.setOffline(false);
  },

  async "nothing was complained of, nobody else was asked"() {
    assert.deepEqual(complaints.filter((text) => !/net::ERR_(INTERNET_DISCONNECTED|CONNECTION_REFUSED)/.test(text)), []);
    assert.deepEqual(asked.filter((url) => !url.startsWith(server.url) && !url.startsWith("blob:")), []);
  },
};

let failed = 0;
await page.goto(server.url);
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok ${name}`);
  } catch (failure) {
    failed += 1;
    console.log(`FAILED ${name}: ${failure.stack}`);
    await picture(`failed-${failed}`);
  }
}
await browser.close();
server.close();
rmSync(scratch, { recursive: true });
process.exit(failed ? 1 : 0);
