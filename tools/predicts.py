"""Predict with coremltools' `MLModel` what `candle-coreml convert` writes, and compare with transformers.

    python -m tools.predicts --command target/release/candle-coreml

coremltools predicts through the Python package (`candle_coreml.coremltools_backend`), which must be installed. The small
checkpoints and encoders of `conformance/` are converted in a temporary folder: to ANEMLL's layout in chunks (one state
through `prefill` and `infer` of all of them, and beyond the window of local layers through `infer_rotate`), in one file with a
greedy head, to Apple's stateful layout, to encoders. Logits are compared with those of transformers in float32 that lie beside
the checkpoints (`tools/candle_reference.py`, `tools/encoder_reference.py`).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import candle_coreml.coremltools_backend  # noqa: F401
import coremltools as ct
import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ["qwen2.5-shards-f32", "qwen3-tied-bf16", "llama-rope3-f16", "mistral-f16", "gemma3-window-f16",
               "gemma3-heads-f16", "gemma3-rotating-f16"]
# Largest distance of logits: fp16 weights and caches, f32 arithmetic.
TOLERANCE = 0.03
BATCH, CONTEXT = 8, 64


def load(path, function=None):
    return ct.models.MLModel(str(path), function_name=function, compute_units=ct.ComputeUnit.CPU_ONLY)


def extents(model, name):
    """Shape of an input, of the function that the model runs."""
    spec = model.get_spec()
    functions = {f.name: f for f in spec.description.functions}
    described = functions.get(model.function_name, spec.description)
    return next(tuple(i.type.multiArrayType.shape) for i in described.input if i.name == name)


def mask(rows, start, width):
    """0 where a token sees a position, −∞ where it does not."""
    seen = np.arange(width)[None, :] <= start + np.arange(rows)[:, None]
    return np.where(seen, 0, -np.inf).astype(np.float16)[None, None]


def chosen(outputs, sizes):
    """Index and value of the largest logit of a greedy head."""
    part = int(outputs["argmax_val"].argmax())
    return sum(sizes[:part]) + int(outputs["argmax_idx"][part]), float(outputs["argmax_val"][part])


class Anemll:
    """A conversion in ANEMLL's layout; one state for all its functions."""

    def __init__(self, folder):
        def found(part):
            return sorted(folder.glob(f"*{part}*.mlpackage"))
        files = found("_FFN_PF") or found("_monolithic_full")
        self.embeddings = [load(p) for p in found("_embeddings")]
        self.head = [load(p) for p in found("_lm_head")]
        self.chunks = {name: [load(p, name) for p in files] for name in ("infer", "prefill")}
        functions = self.chunks["infer"][0].get_spec().description.functions
        states = {s.name: s.type.stateType.arrayType.shape for f in functions for s in f.state}
        # Rows of the cache of local layers; tokens beyond them shift it.
        self.window = states.get("model_model_kv_cache_local", [0, 0, CONTEXT])[2]
        if any(f.name == "infer_rotate" for f in functions):
            self.chunks["infer_rotate"] = [load(p, "infer_rotate") for p in files]
        self.state = self.chunks["infer"][0].make_state()
        self.width = extents(self.chunks["infer"][0], "causal_mask")[3]

    def run(self, function, ids, start):
        """Outputs of the head, or of the last function."""
        tokens = np.array([ids], np.int32)
        x = {"input_ids": tokens}
        for model in self.embeddings:
            x = model.predict(x)
        common = {"position_ids": np.arange(start, start + len(ids), dtype=np.int32),
                  "causal_mask": mask(len(ids), start, self.width), "current_pos": np.array([start], np.int32)}
        beyond = function == "infer" and start >= self.window
        for model in self.chunks["infer_rotate" if beyond else function]:
            x = {"hidden_states" if k in ("hidden_states", "output_hidden_states") else k: v for k, v in x.items()}
            x = model.predict({**x, **common}, state=self.state)
        if function == "infer":
            for model in self.head:
                x = model.predict({"hidden_states": x["output_hidden_states"]})
        return x


def logits(outputs):
    parts = sorted((k for k in outputs if k.startswith("logits")), key=lambda k: int(k[6:] or 0))
    return np.concatenate([outputs[k].reshape(-1) for k in parts])


def chunks(folder, ids, wanted):
    """Two batches through `prefill`, the others one by one."""
    model, worst = Anemll(folder), 0.0
    filled = min(2 * BATCH, model.window // BATCH * BATCH)
    for start in range(0, filled, BATCH):
        model.run("prefill", ids[start:start + BATCH], start)
    for at in range(filled, len(ids)):
        worst = max(worst, np.abs(logits(model.run("infer", ids[at:at + 1], at)) - wanted[at]).max())
    return worst


def greedy(folder, ids, wanted):
    model, worst = Anemll(folder), 0.0
    metadata = model.chunks["infer"][0].user_defined_metadata
    sizes = [int(n) for n in metadata["com.anemll.lm_head_chunk_sizes"].split(",")]
    model.run("prefill", ids[:BATCH], 0)
    for at in range(BATCH, len(ids)):
        index, value = chosen(model.run("infer", ids[at:at + 1], at), sizes)
        # The index may be that of another logit that is as large.
        worst = max(worst, abs(value - wanted[at].max()), abs(value - wanted[at][index]))
    return worst


def stateful(folder, ids, wanted):
    model, worst = load(folder / "StatefulModel.mlpackage"), 0.0
    state = model.make_state()
    for start, end in [(0, 11)] + [(i, i + 1) for i in range(11, len(ids))]:
        given = {"inputIds": np.array([ids[start:end]], np.int32), "causalMask": mask(end - start, start, end)}
        found = model.predict(given, state=state)["logits"][0]
        worst = max(worst, np.abs(found - wanted[start:end]).max())
    return worst


def encoder(folder, reference):
    model = load(next(folder.glob("*.mlpackage")))
    given = {"input_ids": reference["ids"].astype(np.int32), "attention_mask": reference["mask"].astype(np.int32)}
    if any(i.name == "token_type_ids" for i in model.get_spec().description.input):
        given["token_type_ids"] = reference.get("types", np.zeros_like(reference["ids"])).astype(np.int32)
    outputs = model.predict(given)
    seen = reference["mask"].astype(bool)
    worst = np.abs(outputs["last_hidden_state"] - reference["states"])[seen].max()
    if "logits" in reference:
        far = np.abs(outputs["logits"] - reference["logits"])
        return max(worst, far[seen].max() if far.ndim == 3 else far.max())
    vector = outputs.get("sentence_embedding", outputs.get("pooler_output"))
    return worst if vector is None else max(worst, np.abs(vector - reference["pooled"]).max())


CHUNKS = ["--to", "anemll", "--context", str(CONTEXT), "--batch", str(BATCH), "--chunks", "2"]
LAYOUTS = {
    "chunks": (CHUNKS, chunks),
    "greedy": (["--to", "anemll", "--context", str(CONTEXT), "--batch", str(BATCH), "--monolithic", "--argmax"], greedy),
    "stateful": (["--to", "stateful", "--context", str(CONTEXT)], stateful),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, default=ROOT / "target/release/candle-coreml")
    options = parser.parse_args()
    cases = [(f"{name} {layout}", ROOT / "conformance/checkpoints" / name, *how)
             for name in CHECKPOINTS for layout, how in LAYOUTS.items()]
    cases += [(f"{source.name} encoder", source, ["--to", "encoder"], None)
              for source in sorted((ROOT / "conformance/encoders").iterdir())]
    wrong = 0
    for title, source, arguments, compare in cases:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model"
            subprocess.run([options.command.resolve(), "convert", source, "--quiet", "--out", out, *arguments],
                           check=True, capture_output=True)
            reference = load_file(source / "reference.safetensors")
            if compare is None:
                worst = encoder(out, reference)
            else:
                worst = compare(out, reference["ids"].tolist(), reference["logits"])
        fine = worst <= TOLERANCE
        wrong += not fine
        print(f"{title}: {worst:.5f}{'' if fine else ' is too far'}", flush=True)
    print(f"{len(cases)} conversions, {wrong} beyond {TOLERANCE}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
