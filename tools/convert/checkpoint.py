"""Hugging Face checkpoints: `config.json` and safetensors, sharded or not."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file


FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "gemma3_text")
SCALINGS = ("default", "linear", "llama3")


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
    rope: dict
    qk_norm: bool
    qkv_bias: bool
    # Gemma 3: norms after attention and the gated network too, gains of 1 + weight, embeddings times √hidden.
    gemma: bool = False
    # Layers with `local_rope`.
    local: list = field(default_factory=list)
    local_rope: dict = field(default_factory=dict)
    # Scores are divided by its root.
    score_scale: float = 0.0
    # The window of a model whose layers would need one beyond it.
    window: int | None = None

    @classmethod
    def load(cls, folder):
        raw = json.loads((Path(folder) / "config.json").read_text())
        kind = raw["model_type"]
        if kind not in FAMILIES:
            raise SystemExit(f"{folder}/config.json: model_type {kind!r}; expected {', '.join(FAMILIES)}")
        for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention", "use_sliding_window",
                     "mlp_bias", "quantization_config"):
            if raw.get(name):
                raise SystemExit(f"{folder}/config.json: {name} is not supported")
        if raw.get("attention_bias") and kind != "qwen2":
            raise SystemExit(f"{folder}/config.json: attention_bias is not supported")
        gemma, layers = kind == "gemma3_text", raw["num_hidden_layers"]
        parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        theta = raw.get("rope_theta") or (1e6 if gemma else 10000.0)
        rope = {"rope_theta": theta, **parameters.get("full_attention", parameters)}
        local = {"rope_theta": raw.get("rope_local_base_freq") or 10000.0, **parameters.get("sliding_attention", {})}
        for one in (rope, local):
            if one.get("rope_type", one.get("type", "default")) not in SCALINGS:
                raise SystemExit(f"{folder}/config.json: rope scaling {one!r} is not supported")
        pattern = raw.get("sliding_window_pattern") or 6
        kinds = raw.get("layer_types") or ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
                                           for i in range(layers)]
        heads = raw["num_attention_heads"]
        head_dim = raw.get("head_dim") or (256 if gemma else raw["hidden_size"] // heads)
        return cls(
            architecture=kind, hidden_size=raw["hidden_size"], intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"], num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=head_dim, vocab_size=raw["vocab_size"], rms_norm_eps=raw["rms_norm_eps"], rope=rope,
            qk_norm=kind == "qwen3" or gemma, qkv_bias=kind == "qwen2", gemma=gemma,
            local=[gemma and k == "sliding_attention" for k in kinds], local_rope=local,
            score_scale=float(raw.get("query_pre_attn_scalar") or 256) if gemma else float(head_dim),
            window=raw.get("sliding_window") if gemma or kind == "mistral" else None,
        )

    def frequencies(self, layer):
        """Angles per position of a layer, [head_dim / 2]: transformers' `modeling_rope_utils.py`."""
        rope = self.local_rope if self.local[layer] else self.rope
        base = torch.arange(0, self.head_dim, 2).float() / self.head_dim
        frequencies = 1.0 / float(rope["rope_theta"]) ** base
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind == "linear":
            return frequencies / rope["factor"]
        if kind != "llama3":
            return frequencies
        # Long waves are slowed by the factor, short ones kept, those between interpolated.
        length, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        turns = length * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * frequencies / rope["factor"] + kept * frequencies


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
