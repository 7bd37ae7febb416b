"""Train the small Qwen 3 model bundled with the project.

    python -m tools.train.train --out build/tiny --steps 4000

The result is a Hugging Face checkpoint for transformers' Qwen3ForCausalLM. The loss covers answers
only. A sequence has several turns, so that the model also learns to continue a conversation.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from . import data, tokenizer

LENGTH = 224


def config():
    """Qwen 3 at toy dimensions: grouped-query attention, per-head q/k norm, tied embeddings."""
    ids = {t: 256 + i for i, t in enumerate(tokenizer.SPECIAL)}
    return Qwen3Config(
        vocab_size=tokenizer.VOCAB, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=256,
        rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"],
    )


def conversation(rng, tok):
    """Token ids and targets (−100 without loss) of one training sequence."""
    ids, targets = [], []
    while True:
        _, question, answer = data.sample(rng)
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        if rng.random() < 0.5:
            prompt += "<think>\n\n</think>\n\n"
        p, a = tok.encode(prompt).ids, tok.encode(answer + "<|im_end|>").ids
        if len(ids) + len(p) + len(a) + 1 > LENGTH:
            break
        end = tok.encode("\n").ids
        ids += p + a + end
        targets += [-100] * len(p) + a + [-100] * len(end)
        # The no-thinking markup after a question is not repeated in later turns.
    pad = LENGTH - len(ids)
    return ids + [256] * pad, targets + [-100] * pad


def answers(model, tok, questions, thinking, limit=96):
    """Greedy answers, in batches of equal prompt length."""
    suffix = "" if thinking else "<think>\n\n</think>\n\n"
    prompts = [tok.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{suffix}").ids for q in questions]
    out = [None] * len(prompts)
    by_length = {}
    for i, p in enumerate(prompts):
        by_length.setdefault(len(p), []).append(i)
    for rows in by_length.values():
        ids = torch.tensor([prompts[i] for i in rows])
        with torch.no_grad():
            done = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
        for i, row in zip(rows, done[:, ids.shape[1]:].tolist()):
            row = row[: row.index(258)] if 258 in row else row
            out[i] = tok.decode(row).strip()
    return out


def accuracy(model, tok, rows, thinking=True):
    """Fraction of rows answered exactly, overall and by task."""
    model.eval()
    got = answers(model, tok, [r["question"] for r in rows], thinking)
    by_task = {}
    for r, g in zip(rows, got):
        by_task.setdefault(r["task"], []).append(g == r["answer"])
    model.train()
    total = sum(map(sum, by_task.values())) / len(rows)
    return total, {k: round(sum(v) / len(v), 3) for k, v in sorted(by_task.items())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--init", type=Path, help="checkpoint to continue from")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tok = tokenizer.build()
    model = Qwen3ForCausalLM.from_pretrained(args.init) if args.init else Qwen3ForCausalLM(config())
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    # f32, compiled: on one core 0.4 s for 12 sequences, with bf16 0.65 s.
    forward = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.05)
    rows, started = data.evaluation(), time.time()
    for step in range(args.steps + 1):
        if (step % 250 == 0 and step > 0) or step == args.steps:
            total, tasks = accuracy(model, tok, rows[:200] if step < args.steps else rows)
            print(f"step {step}: held-out accuracy {total:.3f} {tasks}", flush=True)
            model.save_pretrained(args.out)
            tokenizer.save(args.out)
        if step == args.steps:
            break
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        batch = [conversation(rng, tok) for _ in range(args.batch)]
        ids = torch.tensor([b[0] for b in batch])
        targets = torch.tensor([b[1] for b in batch])
        logits = forward(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    (args.out / "heldout.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


if __name__ == "__main__":
    main()
