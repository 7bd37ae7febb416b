"""Small language models in ANEMLL's layouts, with the logits of transformers.

    python -m tools.language_layouts --command target/release/candle-coreml --out conformance/language_layouts
    python -m tools.language_layouts --command … --out /tmp/layouts/llm-layouts --random 20 --seed 1

Checkpoints with random weights, written down by `candle-coreml convert` in one layout each. The second form draws
dimensions, windows, chunks, vocabularies, batches, contexts and layouts.

`reference.safetensors`: for each prompt P, `P.prompt_ids`, `P.greedy_ids` and `P.logits.f32` [greedy + 1, vocabulary]:
row 0 follows the prompt, row k greedy token k. transformers in float32, eager attention, without a cache. Prompts are
chosen so that the two best logits of each row are far apart.
"""

import argparse
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

TOKENIZER = Path(__file__).parent.parent / "models" / "tiny-qwen3"
# Ids below are bytes, those above special tokens or unknown to the tokenizer.
WORDS = 256
# Least distance of the two best logits of a row; tests allow 0.03.
GAP = 0.08


def rope(theta=1e4, **more):
    return dict(rope_type="default", rope_theta=theta, **more)


# Name: family, dimensions, arguments of `convert`.
MODELS = {
    "llama-monolithic": ("llama", dict(vocab=283, hidden=40, layers=2, heads=4, kv=2, head=10, mlp=64),
                         dict(context=37, batch=8, monolithic=True)),
    "qwen3-monolithic-argmax": ("qwen3", dict(vocab=301, hidden=32, layers=2, heads=3, kv=1, head=16, mlp=48),
                                dict(context=29, batch=6, monolithic=True, argmax=True)),
    "qwen25-argmax-static": ("qwen2", dict(vocab=270, hidden=48, layers=2, heads=6, kv=3, head=8, mlp=56),
                             dict(context=41, batch=7, chunks=2, argmax=True, static_prefill=True, split_head=3)),
    "qwen3-contexts": ("qwen3", dict(vocab=264, hidden=32, layers=2, heads=2, kv=2, head=16, mlp=40),
                       dict(context=40, batch=5, contexts="24", split_head=2)),
    "gemma3-rotate": ("gemma3", dict(vocab=277, hidden=40, layers=3, heads=2, kv=1, head=20, mlp=56, window=13, full=[2]),
                      dict(context=46, batch=5, chunks=2, split_head=4)),
    "gemma3-split-rotate": ("gemma3", dict(vocab=281, hidden=32, layers=2, heads=2, kv=2, head=16, mlp=40, window=8,
                                           full=[1]),
                            dict(context=33, batch=8, chunks=2, split_rotate=True, static_prefill=True, split_head=1)),
    "gemma3-monolithic-argmax": ("gemma3", dict(vocab=290, hidden=32, layers=2, heads=4, kv=2, head=12, mlp=40, window=10,
                                                full=[1]),
                                 dict(context=35, batch=4, monolithic=True, argmax=True)),
    "gemma3-single-cache": ("gemma3", dict(vocab=262, hidden=32, layers=2, heads=2, kv=1, head=16, mlp=40, window=24,
                                           full=[1]),
                            dict(context=21, batch=9, single_cache=True)),
}


def config(family, d):
    common = dict(vocab_size=d["vocab"], hidden_size=d["hidden"], num_attention_heads=d["heads"],
                  num_key_value_heads=d["kv"], head_dim=d["head"], num_hidden_layers=d["layers"],
                  intermediate_size=d["mlp"], max_position_embeddings=4096, rms_norm_eps=1e-6,
                  bos_token_id=256, eos_token_id=258, pad_token_id=256)
    tied = d.get("tied", family in ("qwen3", "gemma3"))
    if family == "gemma3":
        kinds = ["full_attention" if i in d["full"] else "sliding_attention" for i in range(d["layers"])]
        return Gemma3TextConfig(
            tie_word_embeddings=tied, sliding_window=d["window"], query_pre_attn_scalar=d["head"], layer_types=kinds,
            rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope(1e4)}, **common)
    kind = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family]
    more = dict(sliding_window=None) if family == "mistral" else {}
    if family == "qwen2":
        common.pop("head_dim")
    return kind(tie_word_embeddings=tied, rope_parameters=rope(), **more, **common)


def checkpoint(family, dims, seed):
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(family, dims), dtype=torch.float32, attn_implementation="eager").eval()
    gemma = family == "gemma3"
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                # Gains, and 1 + Gemma's, are exact in fp16.
                values = ((0.0 if gemma else 1.0) + 0.1 * noise).mul(512).round() / 512
            elif name.endswith("bias"):
                values = 0.3 * noise
            else:
                # Logits of spread 3, whatever the width.
                scale = 3.0 if "embed" in name and model.config.tie_word_embeddings or "lm_head" in name else 1.2
                values = scale * noise / parameter.shape[-1] ** 0.5
            parameter.copy_(values.half().float())
    return model


def reference(model, lengths, context, rng):
    """Prompts of these lengths, each with greedy tokens up to the context or 12, whichever is less."""
    found = {}
    for name, (length, greedy) in lengths.items():
        best = None
        for _ in range(48):
            ids = [rng.randrange(WORDS) for _ in range(length)]
            rows, gap, tokens = [], float("inf"), []
            with torch.no_grad():
                for step in range(greedy + 1):
                    row = model(torch.tensor([ids + tokens])).logits[0, -1]
                    top = row.topk(2)
                    gap = min(gap, (top.values[0] - top.values[1]).item())
                    rows.append(row)
                    if gap < GAP or top.indices[0] >= WORDS:
                        break
                    if step < greedy:
                        tokens.append(top.indices[0].item())
            if len(rows) == greedy + 1 and len(tokens) == greedy and (best is None or gap > best[0]):
                best = (gap, ids, tokens, torch.stack(rows))
                if gap > 3 * GAP:
                    break
        if best is None:
            print(f"  no prompt for {name}: left out")
            continue
        _, ids, tokens, rows = best
        found[f"{name}.prompt_ids"] = torch.tensor(ids)
        found[f"{name}.greedy_ids"] = torch.tensor(tokens, dtype=torch.int64)
        found[f"{name}.logits.f32"] = rows.contiguous()
    return found


def make(name, spec, command, out, seed):
    family, dims, options = spec
    model = checkpoint(family, dims, seed)
    rng = random.Random(seed)
    context, batch, window = options["context"], options["batch"], dims.get("window", 0)
    few = min(12, max(1, context // 4))
    lengths = {"one": (1, 2), "edge": (batch, 3), "past": (batch + 1, 2), "two": (2 * batch, 2),
               "long": (context - few, few)}
    if window and window < context:
        # The prompt ends just before, at and after the window, and decoding crosses it.
        lengths |= {"before": (window - 1, min(4, context - window)), "window": (window, 2), "after": (window + 1, 2),
                    "crosses": (max(1, window - 3), min(2 * window, context - window))}
    lengths = {n: (p, min(g, context - p)) for n, (p, g) in lengths.items() if 1 <= p <= context}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        model.save_pretrained(source)
        tensors = {n: t.half() for n, t in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        save_file({n: t.contiguous() for n, t in tensors.items()}, source / "model.safetensors", metadata={"format": "pt"})
        for file in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(TOKENIZER / file, source / file)
        arguments = [str(command), "convert", str(source), "--out", str(out / name), "--quiet"]
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
        shutil.rmtree(out / name, ignore_errors=True)
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    save_file(reference(model, lengths, context, rng), out / name / "reference.safetensors")
    # One name in every checkpoint: folders don't say where they were made.
    print(f"{name}: {family} {dims} {options}, {sum(f.stat().st_size for f in (out / name).rglob('*') if f.is_file())} bytes")


def draw(rng):
    family = rng.choice(["llama", "mistral", "qwen2", "qwen3", "gemma3", "gemma3"])
    kv = rng.choice([1, 1, 2, 3])
    heads, head = kv * rng.choice([1, 2, 3]), 2 * rng.randrange(3, 14)
    layers = rng.randrange(1, 7)
    dims = dict(vocab=rng.randrange(262, 420), hidden=heads * rng.randrange(5, 20), layers=layers, heads=heads, kv=kv, head=head,
                mlp=rng.randrange(20, 70), tied=rng.random() < 0.5)
    if family == "qwen2":
        dims["hidden"] = heads * head
    context = rng.randrange(16, 90)
    batch = rng.choice([1, 2, 3, rng.randrange(4, 12), rng.randrange(4, 12)])
    options = dict(context=context, batch=batch)
    if family == "gemma3":
        dims["window"] = rng.choice([context, context + 5, rng.randrange(batch, max(batch + 1, context // 2))])
        dims["window"] = max(dims["window"], 4)
        dims["full"] = [i for i in range(layers) if rng.random() < 0.3]
        if len(dims["full"]) == layers:
            dims["full"].pop()
        options["single_cache"] = dims["window"] >= context and rng.random() < 0.5
        options["split_rotate"] = rng.random() < 0.4
        if batch > dims["window"]:
            options["batch"] = dims["window"]
    options["static_prefill"] = rng.random() < 0.25
    options["argmax"] = rng.random() < 0.4
    options["split_head"] = rng.choice([1, 2, 3, 5, 8, 16])
    if rng.random() < 0.4:
        options["monolithic"] = True
    else:
        options["chunks"] = rng.randrange(1, layers + 1)
        if family != "gemma3" and rng.random() < 0.3 and context > options["batch"] + 3:
            options["contexts"] = rng.randrange(options["batch"], context)
    return family, dims, {k: v for k, v in options.items() if v is not False}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", default=[])
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.random:
        for i in range(args.seed, args.seed + args.random):
            make(f"random-{i:03}", draw(random.Random(i)), args.command, args.out, i)
        return
    for name in args.names or MODELS:
        make(name, MODELS[name], args.command, args.out, 18 + list(MODELS).index(name))


if __name__ == "__main__":
    main()
