"""Small language models in one file, in the layouts of exporters other than ANEMLL, with the logits of transformers.

    python -m tools.single_file_models conformance/single_file

One Llama checkpoint with random weights, converted to every layout that `candle-coreml/src/single_file` runs:

stateful      inputIds [1, 1..C], causalMask [1, 1, q, 1..C]; states keyCache, valueCache (Apple's export)
per-layer     inputIds [1, 1], causalMask [1, 1, 1, C], writePos [1]; states keyCache0, valueCache0, …
batch         inputIds [1, 8], causalMask [1, 1, 8, C], position_ids [1, 8]; the states of `stateful`
passed        inputIds [1, 1], causalMask [1, 1, 1, C], writePos [1]; keyCache, valueCache in, newKeyCache, newValueCache out
stateless     inputIds [1, C], attentionMask [1, C]
ids-only      inputIds [1, 1..C] alone
masked        inputIds [1, C], attentionMask [1, C], but every token sees all others: not a language model

`reference.safetensors`: for each prompt P, `P.ids` and `P.logits` [tokens, vocabulary], float32, eager attention.
"""

import sys
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT, LAYERS, KV, WIDTH, VOCAB = 24, 2, 2, 8, 97
PROMPTS = {"one": 1, "short": 5, "edge": 8, "long": 19, "full": CONTEXT}


def checkpoint():
    torch.manual_seed(18)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=KV, head_dim=WIDTH, max_position_embeddings=64, rope_theta=1000.0,
        attn_implementation="eager", tie_word_embeddings=False)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        scale = 0.35 if parameter.dim() > 1 else 0.0
        parameter.data = (parameter.data if scale == 0 else torch.randn_like(parameter) * scale).half().float()
    return model


class Network(nn.Module):
    """The decoder over `keys` and `values` [layers, 1, kv, rows, width] that hold earlier tokens, written at `start`."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.head = model.model, model.lm_head
        angles = torch.arange(2 * CONTEXT).float()[:, None] / (1000.0 ** (torch.arange(0, WIDTH, 2).float() / WIDTH))
        angles = torch.cat([angles, angles], -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def run(self, ids, mask, start, store):
        tokens = ids.shape[1]
        hidden = self.inner.embed_tokens(ids)
        cos, sin = self.cos[start : start + tokens], self.sin[start : start + tokens]
        turn = lambda x: x * cos + torch.cat([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], -1) * sin
        for i, layer in enumerate(self.inner.layers):
            attention = layer.self_attn
            x = layer.input_layernorm(hidden)
            heads = lambda t, n: t.reshape(1, tokens, n, WIDTH).transpose(1, 2)
            q, k, v = (heads(p(x), n) for p, n in ((attention.q_proj, 4), (attention.k_proj, KV), (attention.v_proj, KV)))
            k, v = store(i, turn(k), v)
            k, v = k.repeat_interleave(4 // KV, 1), v.repeat_interleave(4 // KV, 1)
            scores = turn(q) @ k.transpose(-1, -2) * WIDTH**-0.5 + mask
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, tokens, 4 * WIDTH)
            hidden = hidden + attention.o_proj(mixed)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.head(self.inner.norm(hidden))


class Stateful(Network):
    """The width of the mask says where the caches are written."""

    def __init__(self, model):
        super().__init__(model)
        shape = (LAYERS, 1, KV, CONTEXT, WIDTH)
        self.register_buffer("keyCache", torch.zeros(shape))
        self.register_buffer("valueCache", torch.zeros(shape))

    def at(self, ids, mask, start, end, read):
        def store(i, k, v):
            self.keyCache[i : i + 1, :, :, start:end, :] = k.unsqueeze(0)
            self.valueCache[i : i + 1, :, :, start:end, :] = v.unsqueeze(0)
            return self.keyCache[i, :, :, :read, :], self.valueCache[i, :, :, :read, :]

        return self.run(ids, mask, start, store)

    def forward(self, inputIds, causalMask):
        end = causalMask.shape[-1]
        return self.at(inputIds, causalMask, end - inputIds.shape[-1], end, end)


class Batch(Stateful):
    def forward(self, inputIds, causalMask, position_ids):
        start = position_ids[0, 0]
        return self.at(inputIds, causalMask, start, start + inputIds.shape[-1], CONTEXT)


class PerLayer(Network):
    def __init__(self, model):
        super().__init__(model)
        for i in range(LAYERS):
            self.register_buffer(f"keyCache{i}", torch.zeros((1, KV, CONTEXT, WIDTH)))
            self.register_buffer(f"valueCache{i}", torch.zeros((1, KV, CONTEXT, WIDTH)))

    def forward(self, inputIds, causalMask, writePos):
        start = writePos[0]

        def store(i, k, v):
            keys, values = getattr(self, f"keyCache{i}"), getattr(self, f"valueCache{i}")
            keys[:, :, start : start + 1, :] = k
            values[:, :, start : start + 1, :] = v
            return keys, values

        return self.run(inputIds, causalMask, start, store)


class Passed(Network):
    def forward(self, inputIds, causalMask, writePos, keyCache, valueCache):
        start = writePos[0]
        here = (torch.arange(CONTEXT) == start).float().reshape(1, 1, CONTEXT, 1)
        keys, values = [], []

        def store(i, k, v):
            keys.append(keyCache[i] * (1 - here) + k * here)
            values.append(valueCache[i] * (1 - here) + v * here)
            return keys[-1], values[-1]

        logits = self.run(inputIds, causalMask, start, store)
        return logits, torch.stack(keys), torch.stack(values)


class Stateless(Network):
    def __init__(self, model, causal=True):
        super().__init__(model)
        self.causal = causal

    def forward(self, inputIds, attentionMask=None):
        tokens = inputIds.shape[1]
        places = torch.arange(CONTEXT)
        later = (places[None, :] > places[:, None]).float()[:tokens, :tokens] * (-1e4 if self.causal else 0.0)
        mask = later[None, None]
        if attentionMask is not None:
            mask = mask + (1 - attentionMask.float())[:, None, None, :] * -1e4
        return self.run(inputIds, mask, 0, lambda i, k, v: (k, v))


def ints(name, shape):
    return ct.TensorType(name=name, shape=shape, dtype=np.int32)


def half(name, shape=None):
    return ct.TensorType(name=name, shape=shape, dtype=np.float16) if shape else ct.TensorType(name=name, dtype=np.float16)


def write(folder, name, module, example, inputs, outputs=("logits",)):
    states = [
        ct.StateType(wrapped_type=ct.TensorType(shape=tuple(buffer.shape), dtype=np.float16), name=key)
        for key, buffer in module.named_buffers() if "Cache" in key
    ]
    with torch.no_grad():
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
    model = ct.convert(
        traced, inputs=inputs, outputs=[half(o) for o in outputs], states=states or None, skip_model_load=True,
        minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT16)
    model.save(str(folder / f"{name}.mlpackage"))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint()
    generator = torch.Generator().manual_seed(1)
    reference = {}
    for name, count in PROMPTS.items():
        ids = torch.randint(0, VOCAB, (count,), generator=generator)
        with torch.no_grad():
            reference[f"{name}.ids"] = ids.int()
            reference[f"{name}.logits"] = model(ids[None]).logits[0].float().contiguous()
    save_file(reference, str(folder / "reference.safetensors"))

    q, c = ct.RangeDim(1, CONTEXT, default=1), ct.RangeDim(1, CONTEXT, default=1)
    one = torch.zeros((1, 1), dtype=torch.int32)
    wide = torch.zeros((1, 1, 1, CONTEXT))
    start = torch.zeros(1, dtype=torch.int32)
    cache = torch.zeros((LAYERS, 1, KV, CONTEXT, WIDTH))
    two = torch.zeros((1, 2), dtype=torch.int32)
    write(folder, "stateful", Stateful(model), (two, torch.zeros((1, 1, 2, 5))),
          [ints("inputIds", (1, q)), half("causalMask", (1, 1, q, c))])
    write(folder, "per-layer", PerLayer(model), (one, wide, start),
          [ints("inputIds", (1, 1)), half("causalMask", wide.shape), ints("writePos", (1,))])
    eight = torch.zeros((1, 8), dtype=torch.int32)
    write(folder, "batch", Batch(model), (eight, torch.zeros((1, 1, 8, CONTEXT)), eight),
          [ints("inputIds", (1, 8)), half("causalMask", (1, 1, 8, CONTEXT)), ints("position_ids", (1, 8))])
    write(folder, "passed", Passed(model), (one, wide, start, cache, cache),
          [ints("inputIds", (1, 1)), half("causalMask", wide.shape), ints("writePos", (1,)),
           half("keyCache", cache.shape), half("valueCache", cache.shape)], ("logits", "newKeyCache", "newValueCache"))
    full = torch.ones((1, CONTEXT), dtype=torch.int32)
    both = [ints("inputIds", (1, CONTEXT)), ints("attentionMask", (1, CONTEXT))]
    write(folder, "stateless", Stateless(model), (full, full), both)
    write(folder, "masked", Stateless(model, causal=False), (full, full), both)
    write(folder, "ids-only", Stateless(model), (full[:, :3],), [ints("inputIds", (1, q))])


if __name__ == "__main__":
    main()
