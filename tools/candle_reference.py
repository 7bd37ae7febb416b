"""Create small random checkpoints and the logits that transformers computes for them in f32.

    python -m tools.candle_reference --out conformance/checkpoints

Each folder has the files of a Hugging Face repository (config.json, safetensors, the tokenizer of the bundled
model) and reference.safetensors: `ids` [n] I64, `logits` [n, vocab] F32, the logits after each id.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GraniteConfig, LlamaConfig, MistralConfig,
                          Olmo2Config, Phi3Config, Qwen2Config, Qwen3Config, Qwen3MoeConfig, SmolLM3Config)

TOKENIZER = Path(__file__).parent.parent / "models" / "tiny-qwen3"
COMMON = dict(vocab_size=272, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
              intermediate_size=112, max_position_embeddings=128, rms_norm_eps=1e-6,
              bos_token_id=256, eos_token_id=258, pad_token_id=256)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
SMALL = {**COMMON, "hidden_size": 32, "intermediate_size": 48}
# Name: configuration, type of the stored weights, number of files.
CHECKPOINTS = {
    "qwen2.5-shards-f32": (Qwen2Config(tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e6),
                                       **COMMON), torch.float32, 2),
    "qwen3-tied-bf16": (Qwen3Config(tie_word_embeddings=True, head_dim=32,
                                    rope_parameters=dict(rope_type="default", rope_theta=1e6), **COMMON), torch.bfloat16, 1),
    "llama-rope3-f16": (LlamaConfig(tie_word_embeddings=False, rope_parameters=LLAMA3, **COMMON), torch.float16, 1),
    # For the converters alone: a scaled rotary embedding, a window shorter than the reference, heads that share one key.
    "gemma3-window-f16": (Gemma3TextConfig(
        tie_word_embeddings=True, head_dim=32, sliding_window=16, query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": dict(rope_type="linear", factor=2.0, rope_theta=1e6),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)},
        **{**COMMON, "num_hidden_layers": 3, "num_key_value_heads": 1}), torch.float16, 1),
    "mistral-f16": (MistralConfig(tie_word_embeddings=False, sliding_window=None, head_dim=24,
                                  rope_parameters=dict(rope_type="default", rope_theta=1e6), **COMMON), torch.float16, 1),
    # The window is shorter than the reference; the scale of the scores is not that of the heads.
    "gemma3-rotating-f16": (Gemma3TextConfig(
        tie_word_embeddings=True, head_dim=16, sliding_window=16, query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": dict(rope_type="default", rope_theta=1e6),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)},
        **{**SMALL, "num_hidden_layers": 3, "num_key_value_heads": 1}), torch.float16, 1),
    "gemma3-heads-f16": (Gemma3TextConfig(
        tie_word_embeddings=True, head_dim=16, sliding_window=40, query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": dict(rope_type="default", rope_theta=1e6),
                         "sliding_attention": dict(rope_type="default", rope_theta=1e4)}, **SMALL), torch.float16, 1),
    # The scale of the scores is not that of the heads; both caps bite.
    "gemma2-f16": (Gemma2Config(head_dim=16, query_pre_attn_scalar=24, sliding_window=127, attn_logit_softcapping=3.0,
                                final_logit_softcapping=6.0, rope_parameters=dict(rope_type="default", rope_theta=1e4),
                                **SMALL), torch.float16, 1),
    "phi3-partial-f16": (Phi3Config(tie_word_embeddings=False, sliding_window=127,
                                    rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5),
                                    **SMALL), torch.float16, 1),
    # The last layer has no positions.
    "smollm3-bf16": (SmolLM3Config(tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                   rope_parameters=dict(rope_type="default", rope_theta=2e6),
                                   **{**SMALL, "num_hidden_layers": 4}), torch.bfloat16, 1),
    # A dense layer, then one of experts.
    "qwen3-moe-f16": (Qwen3MoeConfig(tie_word_embeddings=False, head_dim=16, num_experts=5, num_experts_per_tok=2,
                                     moe_intermediate_size=24, decoder_sparse_step=2, norm_topk_prob=True,
                                     rope_parameters=dict(rope_type="default", rope_theta=1e6), **SMALL), torch.float16, 1),
    "granite-factors-f16": (GraniteConfig(tie_word_embeddings=True, embedding_multiplier=6.0, attention_multiplier=0.25,
                                          residual_multiplier=0.375, logits_scaling=0.6,
                                          rope_parameters=dict(rope_type="default", rope_theta=1e4), **SMALL),
                            torch.float16, 1),
    "olmo2-f16": (Olmo2Config(tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=5e5), **SMALL),
                  torch.float16, 1),
}


def randomize(model, generator, dtype, one_more=False):
    """Random weights exact in `dtype`, wide enough for distinct logits; also norms and biases, 1 and 0 by default."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if "norm" in name and not one_more else 0.0
            spread = 0.5 if name.endswith("bias") else 0.15 * (64 / model.config.hidden_size) ** 0.5
            values = centre + spread * torch.randn(parameter.shape, generator=generator)
            if one_more and "norm" in name:
                # Gains are 1 + weight: both exact in fp16.
                values = (values * 512).round() / 512
            parameter.copy_(values.to(dtype).to(torch.float32))


def on_disk(tensors):
    """The experts of a layer, one matrix in memory, as the separate ones that repositories have."""
    for name in [n for n in tensors if n.endswith((".experts.gate_up_proj", ".experts.down_proj"))]:
        for i, expert in enumerate(tensors.pop(name)):
            prefix = f"{name.rsplit('.', 1)[0]}.{i}"
            if name.endswith("down_proj"):
                tensors[f"{prefix}.down_proj.weight"] = expert.clone()
                continue
            for part, matrix in zip(["gate_proj", "up_proj"], expert.chunk(2)):
                tensors[f"{prefix}.{part}.weight"] = matrix.clone()
    return tensors


def save(tensors, folder, shards):
    """Write one file, or several with an index, like save_pretrained for large models."""
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def make(name, folder):
    config, dtype, shards = CHECKPOINTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    randomize(model, generator, dtype, one_more=config.model_type.startswith("gemma"))
    ids = torch.randint(0, 256, (1, 48), generator=generator)
    with torch.no_grad():
        logits = model(ids).logits[0]
    assert logits.std() > 1, f"{name}: logits of spread {logits.std()} prove little"
    tensors = {n: t.detach().to(dtype).clone().contiguous() for n, t in model.state_dict().items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save(on_disk(tensors), folder, shards)
    config.architectures = [type(model).__name__]
    config.dtype = str(dtype).removeprefix("torch.")
    config.to_json_file(folder / "config.json")
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(TOKENIZER / file, folder / file)
    save_file({"ids": ids[0].contiguous(), "logits": logits.contiguous()}, folder / "reference.safetensors")
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir())} bytes, logits std {logits.std():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", default=list(CHECKPOINTS))
    args = parser.parse_args()
    for name in args.names:
        make(name, args.out / name)


if __name__ == "__main__":
    main()
