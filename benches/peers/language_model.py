"""Prefill and decode of Qwen3-0.6B's dimensions beside llama.cpp, on the same machine in the same run.

    pip install -r benches/peers/requirements.txt
    cargo build --release && cargo build --release -p anemll-synth
    python benches/peers/language_model.py --threads 2

Weights are random on both sides. Runs alternate, so that a busy machine disturbs both; the best of the rounds counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LAYERS, HIDDEN, FFN, HEADS, KV, DIM, VOCABULARY, CONTEXT = 28, 1024, 3072, 16, 8, 128, 151936, 512
ROOT = Path(__file__).resolve().parents[2]


def write_gguf(path, kind):
    """A file of the `qwen3` architecture; quantized blocks are random integers with a small scale."""
    import gguf

    rng = np.random.default_rng(1)
    types = {"F16": gguf.GGMLQuantizationType.F16, "Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_0": gguf.GGMLQuantizationType.Q4_0}
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_key_length(DIM)
    writer.add_value_length(DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, cols):
        if kind == "F16":
            writer.add_tensor(name, (rng.standard_normal((rows, cols), dtype=np.float32) * 0.02).astype(np.float16))
            return
        block = 34 if kind == "Q8_0" else 18
        data = rng.integers(0, 256, (rows, cols // 32, block), dtype=np.uint8)
        data[..., :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
        writer.add_tensor(name, data.reshape(rows, -1), raw_dtype=types[kind])

    def vector(name, size):
        writer.add_tensor(name, np.ones(size, np.float32))

    matrix("token_embd.weight", VOCABULARY, HIDDEN)
    vector("output_norm.weight", HIDDEN)
    for i in range(LAYERS):
        for name, rows, cols in [("attn_q", HEADS * DIM, HIDDEN), ("attn_k", KV * DIM, HIDDEN), ("attn_v", KV * DIM, HIDDEN),
                                 ("attn_output", HIDDEN, HEADS * DIM), ("ffn_gate", FFN, HIDDEN), ("ffn_up", FFN, HIDDEN),
                                 ("ffn_down", HIDDEN, FFN)]:
            matrix(f"blk.{i}.{name}.weight", rows, cols)
        for name, size in [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", DIM), ("attn_k_norm", DIM)]:
            vector(f"blk.{i}.{name}.weight", size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """One loaded model; the low-level interface, so that nothing but evaluation is timed."""

    def __init__(self, path, threads):
        import ctypes

        import llama_cpp as c

        self.c, self.ctypes = c, ctypes
        c.llama_backend_init()
        # Says much while it loads.
        self.quiet = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = c.llama_load_model_from_file(str(path).encode(), c.llama_model_default_params())
        options = c.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = CONTEXT, CONTEXT, CONTEXT
        options.n_threads = options.n_threads_batch = threads
        self.context = c.llama_new_context_with_model(self.model, options)

    def evaluate(self, tokens):
        array = (self.c.llama_token * len(tokens))(*tokens)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")

    def measure(self, prompt, steps):
        self.c.llama_kv_self_clear(self.context) if hasattr(self.c, "llama_kv_self_clear") else self.c.llama_memory_clear(
            self.c.llama_get_memory(self.context), True)
        start = time.perf_counter()
        self.evaluate([(7 * i) % 1000 for i in range(prompt)])
        middle = time.perf_counter()
        for i in range(steps):
            self.evaluate([i])
        end = time.perf_counter()
        return prompt / (middle - start), steps / (end - middle)


def ours(command, model, prompt, threads):
    out = subprocess.run([command, "bench", "--model", model, "--prompt", str(prompt), "--json"], capture_output=True, text=True,
                         check=True, env={**os.environ, "CANDLE_COREML_THREADS": str(threads)})
    report = json.loads(out.stdout)
    return report["prefill_tokens_per_second"], report["decode_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 400])
    parser.add_argument("--ours", nargs="+", default=["4", "6", "8", "16"], help="bits of a weight; 16: fp16, else tables")
    parser.add_argument("--peers", nargs="+", default=["Q4_0", "Q8_0", "F16"])
    parser.add_argument("--keep", type=Path, help="folder for the models, kept for the next run")
    parser.add_argument("--before", metavar="COMMAND", help="another build of candle-coreml, measured in the same run")
    arguments = parser.parse_args()
    command = str(ROOT / "target/release/candle-coreml")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for width in arguments.ours:
            if not (folder / f"lut{width}").exists():
                form = [] if width == "16" else ["--lut", width]
                subprocess.run([ROOT / "target/release/anemll-synth", "--out", folder / f"lut{width}", *form], check=True,
                               stdout=subprocess.DEVNULL)
        for kind in arguments.peers:
            if not (folder / f"{kind}.gguf").exists():
                write_gguf(folder / f"{kind}.gguf", kind)
        peers = {kind: LlamaCpp(folder / f"{kind}.gguf", arguments.threads) for kind in arguments.peers}
        builds = [("ours", command)] + ([("before", arguments.before)] if arguments.before else [])
        best = {}
        for _ in range(arguments.rounds):
            for prompt in arguments.prompts:
                runs = [(f"{build} {'F16' if w == '16' else f'LUT{w}'}",
                         lambda w=w, c=c: ours(c, str(folder / f"lut{w}"), prompt, arguments.threads))
                        for w in arguments.ours for build, c in builds]
                runs += [(f"llama.cpp {k}", lambda k=k: peers[k].measure(prompt, arguments.steps)) for k in arguments.peers]
                for name, run in runs:
                    # `bench` itself takes the best of three.
                    for _ in range(3 if name.startswith("llama.cpp") else 1):
                        found, old = run(), best.get((name, prompt), (0, 0))
                        best[name, prompt] = tuple(max(a, b) for a, b in zip(found, old))
    print("| | " + " | ".join(f"prefill {p} | decode at {p}" for p in arguments.prompts) + " |")
    print("|---" * (1 + 2 * len(arguments.prompts)) + "|")
    for name in dict.fromkeys(name for name, _ in best):
        print(f"| {name} | " + " | ".join(f"{best[name, p][0]:.0f} | {best[name, p][1]:.1f}" for p in arguments.prompts) + " |")


if __name__ == "__main__":
    sys.exit(main())
