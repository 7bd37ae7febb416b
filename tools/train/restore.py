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

NORMS = ("input_layernorm", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm")


def name(stored, first, layers):
    """The name in a checkpoint of a weight in a package of so many layers from `first` on, if it has one."""
    if stored == "model_model_embed_tokens_weight":
        return "model.embed_tokens.weight"
    matrix = re.fullmatch(r"model_model_layers_(\d+)_(self_attn|mlp)_(\w+)_weight", stored)
    if matrix:
        return "model.layers.{}.{}.{}.weight".format(*matrix.groups())
    gain = re.fullmatch(r"gain_(\d+)", stored)
    if not gain:
        return None
    # In the order in which a token passes them; the last package ends with the norm of the model.
    layer, norm = divmod(int(gain[1]), len(NORMS))
    return "model.norm.weight" if layer == layers else f"model.layers.{first + layer}.{NORMS[norm]}.weight"


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
            stored = {key.rsplit("/", 1)[-1]: tensor for key, tensor in load_file(file).items()}
            layers = len({found[1] for key in stored if (found := re.match(r"model_model_layers_(\d+)_", key))})
            for key, tensor in stored.items():
                known = name(key, first, layers)
                if known in wanted:
                    tensors[known] = tensor.float().reshape(wanted[known].shape)
            first += layers
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
