"""PyTorch modules in the form preferred by the Neural Engine: linear layers as 1×1 convolutions over
[1, channels, 1, tokens], RMS norms as layer norms of (x, −x), a KV cache in a single buffer.

Layer formulas: the reference implementations of Qwen 2, Qwen 3, Llama, Mistral and Gemma 3 in transformers.
"""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight. The layer norm of (x, −x) has mean 0 and variance mean(x²)."""

    def __init__(self, weight, eps):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x):
        doubled = torch.cat([x, -x], dim=-1)
        normed = torch.nn.functional.layer_norm(doubled, (doubled.shape[-1],), eps=self.eps)
        return normed[..., : x.shape[-1]] * self.weight


def conv(weight, bias=None):
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    layer.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class Layer(nn.Module):
    def __init__(self, config, tensors, index, row, rows):
        super().__init__()
        p = f"model.layers.{index}."
        get = lambda name: tensors[p + name]
        bias = lambda name: get(name) if config.qkv_bias else None
        self.c, self.key_row, self.value_row = config, row, row + rows
        norm = lambda name: RMSNorm(get(name + ".weight") + (1.0 if config.gemma else 0.0), config.rms_norm_eps)
        self.local = config.local[index]
        self.input_norm = norm("input_layernorm")
        # Before the gated network; Gemma has a norm after each part besides.
        self.post_norm = norm("pre_feedforward_layernorm" if config.gemma else "post_attention_layernorm")
        self.after_attention = norm("post_attention_layernorm") if config.gemma else nn.Identity()
        self.after_gated = norm("post_feedforward_layernorm") if config.gemma else nn.Identity()
        self.q = conv(get("self_attn.q_proj.weight"), bias("self_attn.q_proj.bias"))
        self.k = conv(get("self_attn.k_proj.weight"), bias("self_attn.k_proj.bias"))
        self.v = conv(get("self_attn.v_proj.weight"), bias("self_attn.v_proj.bias"))
        self.o = conv(get("self_attn.o_proj.weight"))
        self.gate = conv(get("mlp.gate_proj.weight"))
        self.up = conv(get("mlp.up_proj.weight"))
        self.down = conv(get("mlp.down_proj.weight"))
        if config.qk_norm:
            self.q_norm, self.k_norm = norm("self_attn.q_norm"), norm("self_attn.k_norm")

    def activation(self, x):
        return nn.functional.gelu(x, approximate="tanh") if self.c.gemma else nn.functional.silu(x)

    def forward(self, hidden, tables, mask, pos, cache, tokens):
        cos, sin = tables[self.local]
        c = self.c
        x = self.input_norm(hidden).permute(0, 2, 1).unsqueeze(2)
        split = lambda t, heads: t.reshape(1, heads, c.head_dim, tokens).permute(0, 1, 3, 2)
        q = split(self.q(x), c.num_attention_heads)
        k = split(self.k(x), c.num_key_value_heads)
        v = split(self.v(x), c.num_key_value_heads)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        cache[self.key_row : self.key_row + 1, :, pos : pos + tokens, :] = k
        cache[self.value_row : self.value_row + 1, :, pos : pos + tokens, :] = v
        share = c.num_attention_heads // c.num_key_value_heads
        length = cache.shape[2]

        def repeat(t):
            wide = t.unsqueeze(2).repeat(1, 1, share, 1, 1)
            return wide.reshape(1, c.num_attention_heads, length, c.head_dim)

        keys = repeat(cache[self.key_row : self.key_row + 1])
        values = repeat(cache[self.value_row : self.value_row + 1])
        scores = torch.matmul(q, keys.transpose(-1, -2)) * (c.score_scale**-0.5) + mask
        attended = torch.matmul(torch.softmax(scores, dim=-1), values)
        attended = attended.permute(0, 1, 3, 2).reshape(1, c.num_attention_heads * c.head_dim, 1, tokens)
        hidden = hidden + self.after_attention(self.o(attended).squeeze(2).permute(0, 2, 1))
        x = self.post_norm(hidden).permute(0, 2, 1).unsqueeze(2)
        x = self.down(self.activation(self.gate(x)) * self.up(x))
        return hidden + self.after_gated(x.squeeze(2).permute(0, 2, 1))


class Core(nn.Module):
    """Consecutive layers over the cache of the whole model."""

    def __init__(self, config, tensors, layers, context, last):
        super().__init__()
        total = config.num_hidden_layers
        shape = (2 * total, config.num_key_value_heads, context, config.head_dim)
        self.register_buffer("kv_cache_0", torch.zeros(shape, dtype=torch.float16))
        # One table for the layers of each kind that there are here.
        self.kinds = sorted({config.local[i] for i in layers})
        for local in self.kinds:
            some = next(i for i in layers if config.local[i] == local)
            angles = torch.arange(2 * context).float()[:, None] * config.frequencies(some)
            angles = torch.cat([angles, angles], dim=-1)
            self.register_buffer(f"cos_{int(local)}", angles.cos())
            self.register_buffer(f"sin_{int(local)}", angles.sin())
        self.layers = nn.ModuleList(Layer(config, tensors, i, i, total) for i in layers)
        gain = tensors["model.norm.weight"] + (1.0 if config.gemma else 0.0)
        self.norm = RMSNorm(gain, config.rms_norm_eps) if last else None
        self.last = last

    def forward(self, hidden, position_ids, mask, current_pos, prefill):
        tokens = hidden.shape[1]
        rows = lambda name, local: getattr(self, f"{name}_{int(local)}")[position_ids][None, None]
        tables = {local: (rows("cos", local), rows("sin", local)) for local in self.kinds}
        for layer in self.layers:
            hidden = layer(hidden, tables, mask, current_pos, self.kv_cache_0, tokens)
        if self.last:
            # The output of prefill's last chunk is unused; one row suffices.
            return hidden[:, :1] if prefill else self.norm(hidden)
        return hidden


class Nest(nn.Module):
    """Wrapper that names the cache as this layout expects: `model_model_kv_cache_0`."""

    def __init__(self, core):
        super().__init__()
        self.model = core


class Chunk(nn.Module):
    """A chunk with the inputs of its function."""

    def __init__(self, core, prefill):
        super().__init__()
        self.model = Nest(core)
        self.prefill = prefill

    def forward(self, hidden_states, position_ids, causal_mask, current_pos):
        return self.model.model(hidden_states, position_ids, causal_mask, current_pos, self.prefill)


class Embeddings(nn.Module):
    def __init__(self, config, tensors):
        super().__init__()
        scale = config.hidden_size**0.5 if config.gemma else 1.0
        self.table = nn.Embedding.from_pretrained(tensors["model.embed_tokens.weight"] * scale)

    def forward(self, input_ids):
        return self.table(input_ids)


class Head(nn.Module):
    """Logits in parts; the first ones have one more row if the vocabulary does not divide evenly."""

    def __init__(self, tensors, parts):
        super().__init__()
        self.parts = nn.ModuleList(conv(w) for w in torch.tensor_split(tensors["lm_head.weight"], parts))

    def forward(self, hidden_states):
        x = hidden_states.permute(0, 2, 1).unsqueeze(2)
        return tuple(part(x).squeeze(2).permute(0, 2, 1) for part in self.parts)
