// A package of 105 MB: a language model of one layer with made-up weights, written by the command from a checkpoint that is
// written here.
import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

const [HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCAB] = [512, 1024, 8, 2, 64, 49152];

/** Halves of either sign around 2^-7, by a generator of numbers that is the same everywhere; no two calls give the same. */
let x = 12345;
function halves(count) {
  const values = new Uint16Array(count);
  for (let i = 0; i < count; i += 1) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    values[i] = 0x2000 | ((x >>> 16) & 0x83ff);
  }
  return new Uint8Array(values.buffer);
}

const TENSORS = {
  "model.embed_tokens.weight": [VOCAB, HIDDEN],
  "lm_head.weight": [VOCAB, HIDDEN],
  "model.norm.weight": [HIDDEN],
  "model.layers.0.input_layernorm.weight": [HIDDEN],
  "model.layers.0.post_attention_layernorm.weight": [HIDDEN],
  "model.layers.0.self_attn.q_proj.weight": [HEADS * HEAD, HIDDEN],
  "model.layers.0.self_attn.k_proj.weight": [KV_HEADS * HEAD, HIDDEN],
  "model.layers.0.self_attn.v_proj.weight": [KV_HEADS * HEAD, HIDDEN],
  "model.layers.0.self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD],
  "model.layers.0.self_attn.q_norm.weight": [HEAD],
  "model.layers.0.self_attn.k_norm.weight": [HEAD],
  "model.layers.0.mlp.gate_proj.weight": [INNER, HIDDEN],
  "model.layers.0.mlp.up_proj.weight": [INNER, HIDDEN],
  "model.layers.0.mlp.down_proj.weight": [HIDDEN, INNER],
};

function checkpoint(folder) {
  mkdirSync(folder, { recursive: true });
  const config = {
    architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", vocab_size: VOCAB, hidden_size: HIDDEN, intermediate_size: INNER,
    num_hidden_layers: 1, num_attention_heads: HEADS, num_key_value_heads: KV_HEADS, head_dim: HEAD, rms_norm_eps: 1e-6,
    rope_theta: 10000, max_position_embeddings: 128, tie_word_embeddings: false, torch_dtype: "float16", hidden_act: "silu",
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(`models/tiny-qwen3/${file}`, join(folder, file));
  let end = 0;
  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const header = Object.fromEntries(Object.entries(TENSORS).map(([name, shape]) => {
    const begin = end;
    end += 2 * size(shape);
    return [name, { dtype: "F16", shape, data_offsets: [begin, end] }];
  }));
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(join(folder, "model.safetensors"), "w");
  for (const part of [length, text, ...Object.values(TENSORS).map((shape) => halves(size(shape)))]) writeSync(file, part);
  closeSync(file);
}

/** Writes it below a folder; returns the path of the package. */
export function large(command, folder) {
  checkpoint(join(folder, "checkpoint"));
  const out = join(folder, "large");
  execFileSync(command, ["convert", join(folder, "checkpoint"), "--to", "stateful", "--out", out, "--context", "128"], { stdio: "pipe" });
  return join(out, "StatefulModel.mlpackage");
}
