// Decode speed of the page's module, in Node.js: node tools/web_tests/decode.mjs PAGE [ROUNDS]
import { copyFileSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [page, rounds = "20"] = process.argv.slice(2);
const script = join(mkdtempSync(join(tmpdir(), "web-")), "candle_coreml.mjs");
copyFileSync(join(page, "candle_coreml.js"), script);
const { default: init, Files } = await import(script);
await init({ module_or_path: readFileSync(join(page, "candle_coreml_bg.wasm")) });
const files = new Files();
for (const name of JSON.parse(readFileSync(join(page, "models/tiny-qwen3.json")))) files.add(`m/${name}`, readFileSync(join(page, "models/tiny-qwen3", name)));
const chat = files.open().chat();
let [least, prefill] = [Infinity, 0];
for (let round = 0; round < Number(rounds); round += 1) {
  // Hot enough that answers are long.
  chat.start(JSON.stringify([{ role: "user", content: `What is ${10 + round} + 45?` }]), 64, 5, round);
  // The first piece takes the prompt's time.
  for (let more = chat.next(); more !== undefined;) {
    const began = performance.now();
    more = chat.next();
    if (more !== undefined) least = Math.min(least, performance.now() - began);
  }
  prefill = Math.max(prefill, JSON.parse(chat.finish()).prefill_rate);
}
console.log(`best of ${rounds} answers: prefill ${prefill.toFixed(0)} tokens/s, ${least.toFixed(2)} ms per token`);
