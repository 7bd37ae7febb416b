"""Create small reference models: random checkpoints, their packages, and the logits of transformers in f32.

    python -m tools.reference --out conformance/models

Weights of linear layers are drawn from 16 fp16 values per 8 output channels, so that palettization
with 4 or more bits is exact and the checkpoint itself is the reference.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from .train import tokenizer

COMMON = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=10000.0,
              max_position_embeddings=128)
SMALL = {k: v for k, v in COMMON.items() if k != "rope_theta"} | {"hidden_size": 32}
MODELS = {
    # A vocabulary not divisible by 16, three chunks, 4-bit tables.
    "qwen3-v1003-c3-lut4": (Qwen3Config(vocab_size=1003, num_hidden_layers=3, intermediate_size=96, head_dim=32, **COMMON),
                            ["--context", "96", "--batch", "8", "--chunks", "3", "--lut-ffn", "4", "--lut-lmhead", "6"]),
    # Biases, one output of the head, sequential prefill, fp16 weights.
    "qwen25-one-head-batch1-f16": (Qwen2Config(vocab_size=520, num_hidden_layers=2, intermediate_size=80, **COMMON),
                               ["--context", "64", "--batch", "1", "--split-head", "1"]),
    "llama-c1-lut6": (LlamaConfig(vocab_size=512, num_hidden_layers=2, intermediate_size=128, **COMMON),
                      ["--context", "64", "--batch", "16", "--lut-ffn", "6", "--lut-lmhead", "4"]),
    "llama3-rope-lut4": (LlamaConfig(vocab_size=300, num_hidden_layers=2, intermediate_size=64, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32), **SMALL),
        ["--context", "48", "--batch", "8", "--lut-ffn", "4", "--split-head", "2"]),
    # Heads that are not hidden size / heads.
    "mistral-lut4": (MistralConfig(vocab_size=300, num_hidden_layers=2, intermediate_size=64, head_dim=24, sliding_window=48,
                                   rope_parameters=dict(rope_type="default", rope_theta=1e6), **SMALL),
                     ["--context", "48", "--batch", "8", "--lut-ffn", "4", "--split-head", "1"]),
    # A context within the window: local layers differ in their rotary tables alone.
    "gemma3-in-window-lut4": (Gemma3TextConfig(
        vocab_size=300, num_hidden_layers=3, intermediate_size=64, head_dim=16, sliding_window=48, query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": dict(rope_type="linear", factor=2.0, rope_theta=1e6),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)}, **SMALL),
        ["--context", "48", "--batch", "8", "--chunks", "2", "--lut-ffn", "4", "--split-head", "2"]),
}


def palette(weight, generator):
    """Random weights with 16 distinct values per 8 rows."""
    rows, cols = weight.shape
    groups = max(rows // 8, 1)
    scale = 1.5 / cols**0.5
    table = (torch.randn(groups, 16, generator=generator) * scale).half().float()
    index = torch.randint(0, 16, (rows, cols), generator=generator)
    group = (torch.arange(rows) // 8).clamp(max=groups - 1)
    return table[group[:, None], index]


def fill(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        with torch.no_grad():
            if p.ndim == 2 and "embed" not in name and p.shape[0] % 8 == 0:
                p.copy_(palette(p, generator))
            elif p.ndim == 2:
                p.copy_((torch.randn(p.shape, generator=generator) * (1.0 if "embed" in name else 1.5 / p.shape[1] ** 0.5)).half().float())
            elif name.endswith("bias"):
                p.copy_((torch.randn(p.shape, generator=generator) * 0.1).half().float())
            else:
                p.copy_((1 + 0.1 * torch.randn(p.shape, generator=generator)).half().float())


def references(model, batch, vocab):
    """Prompts shorter than, longer than and equal to a batch; 16 greedy tokens; logits after each."""
    out, rng = {}, np.random.default_rng(3)
    for name, length in {"short": 5, "long": 2 * batch + 7, "exact": max(batch, 2)}.items():
        ids = rng.integers(0, vocab, length).tolist()
        prompt, rows = list(ids), []
        for _ in range(17):
            with torch.no_grad():
                rows.append(model(torch.tensor([ids])).logits[0, -1].numpy())
            ids.append(int(rows[-1].argmax()))
        out[f"{name}.prompt_ids"] = np.array(prompt, np.int32)
        out[f"{name}.greedy_ids"] = np.array(ids[length:length + 16], np.int32)
        out[f"{name}.logits.f32"] = np.stack(rows).astype(np.float32)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    for seed, (name, (config, options)) in enumerate(MODELS.items()):
        if name not in args.names:
            continue
        config.tie_word_embeddings = False
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        fill(model, seed)
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            tokenizer.save(scratch)
            command = [sys.executable, "-m", "tools.convert", "--model", scratch, "--out", str(folder), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        batch = int(options[options.index("--batch") + 1])
        save_file(references(model, batch, config.vocab_size), folder / "reference.safetensors")
        print(name, json.dumps(options), flush=True)


if __name__ == "__main__":
    main()
