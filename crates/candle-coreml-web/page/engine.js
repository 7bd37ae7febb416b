// The worker, its calls, and the one on which the user waits.

let worker = null;
let last = 0;
const waiting = new Map();
let reopen = null;

/** An error that only says that the user had enough. */
export class Cancelled extends Error {}

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, value, error, piece, fatal } }) => {
    const call = waiting.get(id);
    if (!call) return;
    if (piece) return call.piece?.(piece);
    waiting.delete(id);
    if (error === undefined) return call.done(value);
    if (fatal) restart(new Error(error));
    call.failed(new Error(fatal ? `it ended in an error of the module, and was started again: ${error}` : error));
  };
  worker.onerror = (event) => restart(new Error(event.message || "the worker can't be started"));
}

function restart(why) {
  worker?.terminate();
  worker = null;
  const calls = [...waiting.values()];
  waiting.clear();
  for (const call of calls) call.failed(why);
}

/** Calls the worker. After it was ended, another one opens the files again first. */
export async function call(op, args, piece) {
  if (!worker) {
    start();
    if (reopen && op !== "open") await send("open", reopen);
  }
  if (op === "open") reopen = null;
  const value = await send(op, args, piece);
  if (op === "open") reopen = args;
  return value;
}

function send(op, args, piece) {
  const id = ++last;
  return new Promise((done, failed) => {
    waiting.set(id, { done, failed, piece });
    worker.postMessage({ id, op, args });
  });
}

/** Ends what is computed, whatever it is. */
export function cancel() {
  restart(new Cancelled("cancelled"));
}
