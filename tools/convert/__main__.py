"""Convert a Hugging Face checkpoint of Qwen 3, Qwen 2.5, Llama, Mistral or Gemma 3 to the multi-component layout.

    python -m tools.convert --model DIR --out DIR --context 512 --batch 64 --chunks 2 \
        --lut-ffn 6 --lut-lmhead 8

Writes `{prefix}_embeddings.mlpackage`, `{prefix}_FFN_PF[_lutN]_chunk_01of02.mlpackage` … (functions `infer`
and `prefill` over one KV cache), `{prefix}_lm_head[_lutN].mlpackage`, `meta.yaml`, `config.json` and the
tokenizer. The final norm is applied once, by the last chunk of `infer`. Runs on Linux.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
import yaml

from . import checkpoint, modules

INFO = "com.anemll."


def palettize(model, bits, everything=False):
    """Palettize with k-means tables of 2^bits entries per 8 output channels; small weights are unchanged."""
    if bits is None:
        return model
    op = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, granularity="per_grouped_channel", group_size=8)
    # Layers only: the rotary tables must stay exact.
    config = {"global_config": op} if everything else {"op_type_configs": {"conv": op}}
    return cto.palettize_weights(model, cto.OptimizationConfig(**config))


def convert(module, example, inputs, outputs, states=None):
    with torch.no_grad():
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
    return ct.convert(
        traced, inputs=inputs, outputs=outputs, states=states, minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16, compute_units=ct.ComputeUnit.CPU_AND_NE, skip_model_load=True,
    )


def half(name, shape=None):
    return ct.TensorType(name=name, shape=shape, dtype=np.float16) if shape else ct.TensorType(name=name, dtype=np.float16)


def ints(name, shape):
    return ct.TensorType(name=name, shape=shape, dtype=np.int32)


def chunk(config, tensors, layers, args, last, tokens):
    prefill = tokens > 1
    core = modules.Core(config, tensors, layers, args.context, last)
    hidden, mask = (1, tokens, config.hidden_size), (1, 1, tokens, args.context)
    example = (
        torch.zeros(hidden), torch.zeros(tokens, dtype=torch.int32), torch.zeros(mask),
        torch.zeros(1, dtype=torch.int32),
    )
    state = ct.StateType(
        wrapped_type=ct.TensorType(shape=tuple(core.kv_cache_0.shape), dtype=np.float16),
        name="model.model.kv_cache_0")
    core.kv_cache_0 = core.kv_cache_0.float()
    model = convert(
        modules.Chunk(core, prefill), example,
        [half("hidden_states", hidden), ints("position_ids", (tokens,)), half("causal_mask", mask),
         ints("current_pos", (1,))],
        [half("output_hidden_states")], [state])
    return palettize(model, args.lut_ffn)


def tag(model, args, **more):
    facts = {"info": "candle-coreml tools", "context_length": args.context, "num_chunks": args.chunks, **more}
    for key, value in facts.items():
        model.user_defined_metadata[INFO + key] = str(value)


def suffix(bits):
    return "" if bits is None else f"_lut{bits}"


def main():
    width = lambda s: None if s == "none" else int(s)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=1)
    parser.add_argument("--prefix")
    parser.add_argument("--split-head", type=int, help="parts of the logits (default: 16 for Qwen, else 8)")
    parser.add_argument("--lut-ffn", type=width, default=None)
    parser.add_argument("--lut-lmhead", type=width, default=None)
    parser.add_argument("--lut-embeddings", type=width, default=None)
    args = parser.parse_args()
    config = checkpoint.Config.load(args.model)
    tensors = checkpoint.weights(args.model)
    qwen = config.architecture.startswith("qwen")
    prefix = args.prefix or {"qwen3": "qwen", "qwen2": "qwen25", "gemma3_text": "gemma3"}.get(config.architecture, config.architecture)
    parts = args.split_head or (16 if qwen else 8)
    if config.window is not None and args.context > config.window:
        # Within the window all layers see everything; beyond, local layers need caches of their own.
        raise SystemExit(f"--context {args.context}: the model has windows of {config.window} tokens; "
                         "`candle-coreml convert` makes contexts beyond them")
    args.out.mkdir(parents=True, exist_ok=True)
    if not 1 <= args.chunks <= config.num_hidden_layers:
        raise SystemExit(f"--chunks {args.chunks}: the model has {config.num_hidden_layers} layers")

    lengths = [(1, 1)] if args.batch == 1 else [(1, 1), (1, args.batch)]
    shape = ct.EnumeratedShapes(shapes=lengths, default=(1, 1)) if len(lengths) > 1 else (1, 1)
    embeddings = convert(modules.Embeddings(config, tensors), (torch.zeros((1, 1), dtype=torch.int32),),
                         [ints("input_ids", shape)], [half("hidden_states")])
    embeddings = palettize(embeddings, args.lut_embeddings, everything=True)
    tag(embeddings, args)
    embeddings.save(str(args.out / f"{prefix}_embeddings{suffix(args.lut_embeddings)}.mlpackage"))

    head = convert(modules.Head(tensors, parts), (torch.zeros((1, 1, config.hidden_size)),),
                   [half("hidden_states", (1, 1, config.hidden_size))],
                   [half(f"logits{i + 1}" if parts > 1 else "logits") for i in range(parts)])
    head = palettize(head, args.lut_lmhead)
    tag(head, args)
    head.save(str(args.out / f"{prefix}_lm_head{suffix(args.lut_lmhead)}.mlpackage"))

    split = np.array_split(np.arange(config.num_hidden_layers), args.chunks)
    for i, layers in enumerate(split):
        last = i + 1 == args.chunks
        name = f"{prefix}_FFN_PF{suffix(args.lut_ffn)}_chunk_{i + 1:02d}of{args.chunks:02d}.mlpackage"
        with tempfile.TemporaryDirectory() as scratch:
            functions = ct.utils.MultiFunctionDescriptor()
            for function, tokens in (("infer", 1), ("prefill", args.batch)):
                path = f"{scratch}/{function}.mlpackage"
                chunk(config, tensors, layers.tolist(), args, last, tokens).save(path)
                functions.add_function(path, "main", function)
            functions.default_function_name = "infer"
            combined = f"{scratch}/combined.mlpackage"
            ct.utils.save_multifunction(functions, combined)
            model = ct.models.MLModel(combined, skip_model_load=True)
            tag(model, args, batch_size=args.batch, chunk_no=i + 1, lut_bits=args.lut_ffn or "none")
            model.save(str(args.out / name))
        print(f"wrote {name}", flush=True)

    bits = lambda b: "none" if b is None else b
    parameters = {
        "context_length": args.context, "batch_size": args.batch, "num_chunks": args.chunks, "model_prefix": prefix,
        "lut_embeddings": bits(args.lut_embeddings), "lut_ffn": bits(args.lut_ffn), "lut_lmhead": bits(args.lut_lmhead),
        "embeddings": f"{prefix}_embeddings{suffix(args.lut_embeddings)}.mlpackage",
        "lm_head": f"{prefix}_lm_head{suffix(args.lut_lmhead)}.mlpackage",
        "ffn": f"{prefix}_FFN_PF{suffix(args.lut_ffn)}.mlpackage", "split_lm_head": parts,
    }
    info = {"name": args.out.name, "version": "1", "architecture": config.architecture, "framework": "Core ML",
            "parameters": parameters}
    (args.out / "meta.yaml").write_text(yaml.safe_dump({"model_info": info}, sort_keys=False))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                 "chat_template.jinja", "vocab.json", "merges.txt"):
        if (args.model / file).is_file():
            shutil.copy(args.model / file, args.out / file)


if __name__ == "__main__":
    main()
