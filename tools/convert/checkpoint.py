"""Hugging Face checkpoints: `config.json` and safetensors, sharded or not."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file


@dataclass
class Config:
    """Model configuration; names as in `config.json`."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    qk_norm: bool
    qkv_bias: bool

    @classmethod
    def load(cls, folder):
        raw = json.loads((Path(folder) / "config.json").read_text())
        kind = raw["model_type"]
        if kind not in ("qwen3", "qwen2", "llama"):
            raise SystemExit(f"{folder}/config.json: model_type {kind!r}; expected qwen3, qwen2 or llama")
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise SystemExit(f"{folder}/config.json: rope scaling {rope!r} is not supported")
        heads = raw["num_attention_heads"]
        return cls(
            architecture=kind, hidden_size=raw["hidden_size"], intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"], num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads, vocab_size=raw["vocab_size"],
            rms_norm_eps=raw["rms_norm_eps"], rope_theta=raw.get("rope_theta") or rope.get("rope_theta") or 10000.0,
            qk_norm=kind == "qwen3", qkv_bias=kind == "qwen2",
        )


def weights(folder):
    """All tensors by name, as f32; a tied `lm_head.weight` is the embedding."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{folder}: no *.safetensors")
    tensors = {}
    for file in files:
        tensors.update(load_file(file))
    tensors = {k: v.to(torch.float32) for k, v in tensors.items()}
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return tensors
