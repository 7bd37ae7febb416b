"""Train the small encoder, convert it, and write PyTorch's results for some sentences.

    python -m tools.encoder --out models/tiny-intent

Writes `intent.mlpackage` (fp16; up to 32 sentences of up to 48 tokens), `tokenizer.json`, `config.json`
with the labels, `heldout.jsonl`, and `reference.safetensors`: batches of ids and masks with the logits and hidden
states of PyTorch in f32. Runs on Linux, about two minutes on one core.
"""

import argparse
import json
import random
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from safetensors.torch import save_file

from . import data, train

BATCH = 32  # maximum number of sentences per call


class Encoder(torch.nn.Module):
    """The model in a form that the converter can trace.

    The attention mask is computed here (0 for tokens, a large negative number for padding): the library uses
    operations that coremltools does not support.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        bert = self.model.bert
        closed = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        hidden = bert.embeddings(input_ids=input_ids, token_type_ids=torch.zeros_like(input_ids))
        hidden = bert.encoder(hidden, attention_mask=closed).last_hidden_state
        return self.model.classifier(bert.pooler(hidden)), hidden


def convert(model):
    """An ML Program of the encoder with a flexible batch and length."""
    example = (torch.ones((2, 5), dtype=torch.int32),) * 2
    with torch.no_grad():
        traced = torch.jit.trace(model, example, check_trace=False)
    shape = (ct.RangeDim(1, BATCH, default=1), ct.RangeDim(1, train.LENGTH, default=16))
    return ct.convert(
        traced, minimum_deployment_target=ct.target.iOS16, compute_precision=ct.precision.FLOAT16, skip_model_load=True,
        inputs=[ct.TensorType(name=n, shape=shape, dtype=np.int32) for n in ("input_ids", "attention_mask")],
        outputs=[ct.TensorType(name=n, dtype=np.float32) for n in ("logits", "hidden_states")],
    )


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
    model.config.to_json_file(str(args.out / "config.json"))
    (args.out / "heldout.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    save_file(reference(model, encoder, rows), str(args.out / "reference.safetensors"))
    convert(Encoder(model).eval()).save(str(args.out / "intent.mlpackage"))


if __name__ == "__main__":
    main()
