"""A checkpoint of transformers from the packages of a converted Qwen 3, to train it on.

    python -m tools.train.restore --model models/tiny-qwen3 --out build/tiny-0 --command target/release/candle-coreml

Weights come out as the packages hold them: rounded to their tables.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

PARTS = {
    "input_norm": "input_layernorm", "post_norm": "post_attention_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
    "v": "self_attn.v_proj", "o": "self_attn.o_proj", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}


def name(stored, first):
    """The name in a checkpoint of a weight in a package whose layers begin with `first`, if it has one."""
    if stored.startswith("table_weight"):
        return "model.embed_tokens.weight"
    if stored.startswith("model_model_norm_weight"):
        return "model.norm.weight"
    layer = re.match(r"model_model_layers_(\d+)_(\w+?)_weight_", stored)
    return layer and f"model.layers.{first + int(layer[1])}.{PARTS[layer[2]]}.weight"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", default="candle-coreml")
    args = parser.parse_args()
    model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(args.model))
    wanted = dict(model.named_parameters())
    tensors, first = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        for package in sorted(args.model.glob("*.mlpackage")):
            file = f"{scratch}/{package.stem}.safetensors"
            subprocess.run([args.command, "weights", "extract", package, file], check=True, stdout=subprocess.DEVNULL)
            for stored, tensor in load_file(file).items():
                known = name(stored.rsplit("/", 1)[-1], first)
                if known in wanted:
                    tensors[known] = tensor.float().reshape(wanted[known].shape)
            # Every chunk counts its layers from 0.
            first = len({k.split(".")[2] for k in tensors if ".layers." in k})
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        raise SystemExit(f"{args.model}: no weights for {', '.join(missing)}")
    model.load_state_dict(tensors, strict=False)
    model.save_pretrained(args.out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.model / file, args.out / file)
    print(f"{args.out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
