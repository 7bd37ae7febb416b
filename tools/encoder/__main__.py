"""Train the small encoder, and write its checkpoint with PyTorch's results for some sentences.

    python -m tools.encoder --out build/tiny-intent
    candle-coreml convert build/tiny-intent --to encoder --out build/intent
    candle-coreml edit build/intent/encoder.mlpackage --rename last_hidden_state=hidden_states --out build/intent.mlpackage

The first command writes `config.json` with the labels, `model.safetensors` (fp16), `tokenizer.json`, `heldout.jsonl`, and
`reference.safetensors`: batches of ids and masks with the logits and hidden states of PyTorch in f32. It runs on Linux, about
two minutes on one core. The others make the package (up to 32 sentences of up to 48 tokens), and need no Python.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import data, train


def reference(model, encoder, rows):
    """Batches of one, four and twelve sentences with PyTorch's results."""
    tensors = {}
    for name, first, count in (("one", 0, 1), ("four", 1, 4), ("twelve", 5, 12)):
        ids, mask = train.batch(encoder, [r["text"] for r in rows[first : first + count]])
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        named = {"input_ids": ids, "attention_mask": mask, "logits": out.logits, "hidden_states": out.hidden_states[-1]}
        tensors |= {f"{name}.{k}": v.contiguous() for k, v in named.items()}
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    encoder = train.tokenizer(rng)
    encoder.save(str(args.out / "tokenizer.json"))
    model = train.train(encoder, rng, args.steps)
    rows = data.evaluation()
    print(f"held out: {train.accuracy(model, encoder, rows):.4f}", flush=True)
    (args.out / "heldout.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    save_file(reference(model, encoder, rows), str(args.out / "reference.safetensors"))
    model.half().save_pretrained(args.out)


if __name__ == "__main__":
    main()
