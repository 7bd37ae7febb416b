// Everything that computes. A call is {id, op, args}; the answer {id, value} or {id, error}; pieces on the way {id, piece}.
import init, { Files } from "./candle_coreml.js";

const ready = init({ module_or_path: new URL("candle_coreml_bg.wasm", import.meta.url) });
let found = null;
let predictor = null;
let chat = null;
let stopped = false;
// Lets messages in, such as the one to stop.
const turn = new MessageChannel();
const others = () => new Promise((done) => { turn.port1.onmessage = done; turn.port2.postMessage(0); });

/** Pixels of an image as the model wants it: the file itself where its size fits, else as the browser scales it. */
async function image(name, file, size) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    predictor.image(name, bytes);
    return null;
  } catch (unfit) {
    if (!size) throw unfit;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw unfit;
    }
    const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, size.width, size.height);
    const { data } = context.getImageData(0, 0, size.width, size.height);
    predictor.pixels(name, size.width, size.height, new Uint8Array(data.buffer));
    return `${name}: scaled from ${bitmap.width} × ${bitmap.height}`;
  }
}

const ops = {
  async open({ files }, piece) {
    predictor = chat = found = null;
    const all = new Files();
    let read = 0;
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    for (const { path, file } of files) {
      all.add(path, new Uint8Array(await file.arrayBuffer()));
      read += file.size;
      piece({ read, total });
    }
    found = all.open();
    return JSON.parse(found.list());
  },
  describe: ({ model }) => JSON.parse(found.describe(model)),
  svg: ({ model, name, unfold }) => found.svg(model, name, unfold),
  ane: ({ model }) => JSON.parse(found.ane(model)),
  load({ model, name }) {
    predictor = null;
    predictor = found.predictor(model, name);
  },
  async predict({ inputs, seed }, piece) {
    predictor.clear();
    const notes = [];
    for (const { name, json, file, size } of inputs) {
      if (json !== undefined) predictor.json(name, json);
      else notes.push(await image(name, file, size));
    }
    predictor.random(seed);
    const began = performance.now();
    let told = began;
    const result = JSON.parse(predictor.predict((operations) => {
      const now = performance.now();
      if (now - told > 50) {
        told = now;
        piece({ operations, seconds: (now - began) / 1000 });
      }
      return true;
    }));
    return { ...result, seconds: (performance.now() - began) / 1000, notes: notes.filter(Boolean) };
  },
  numbers: ({ name }) => predictor.numbers(name),
  rgba: ({ name }) => predictor.rgba(name),
  reset: () => predictor.reset(),
  async say({ messages, most, heat, seed }, piece) {
    chat ??= found.chat();
    stopped = false;
    chat.start(JSON.stringify(messages), most, heat, seed);
    try {
      for (let text; !stopped && (text = chat.next()) !== undefined;) {
        if (text) piece({ text });
        await others();
      }
    } catch (error) {
      chat.finish();
      throw error;
    }
    return JSON.parse(chat.finish());
  },
  stop() { stopped = true; },
};

self.onmessage = async ({ data: { id, op, args } }) => {
  try {
    await ready;
    self.postMessage({ id, value: await ops[op](args ?? {}, (piece) => self.postMessage({ id, piece })) });
  } catch (error) {
    // A trap leaves the module in no defined state: the page starts another worker.
    self.postMessage({ id, error: String(error?.message ?? error), fatal: error instanceof WebAssembly.RuntimeError });
  }
};
