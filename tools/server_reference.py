"""Answers that the server must give, computed by transformers: probabilities, penalties, biases, answers in a form.

    python -m tools.server_reference > crates/candle-coreml-serve/tests/reference.json

The models are those of `tools/language_layouts.py`, whose checkpoints are made again here. Logits are those of transformers
in float32, with eager attention and without a cache; log-probabilities are their `log_softmax`. Biases are transformers'
`SequenceBiasLogitsProcessor`; presence and frequency penalties, which transformers lacks, the formula of OpenAI's API
reference: l(t) − c(t) · frequency − [c(t) > 0] · presence over the tokens of the answer. Forms are masks of llguidance's
Python package, which holds greedy decoding to them token by token.

Prompts are chosen so that the two best logits of each step are far apart (`GAP` of the layouts).
"""

import json
import random

import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.torch import allocate_token_bitmask, apply_token_bitmask_inplace, fill_next_token_bitmask
from transformers import AutoTokenizer, SequenceBiasLogitsProcessor

from .language_layouts import GAP, MODELS, WORDS, checkpoint

LAYOUTS = "conformance/language_layouts"
# As the server's: a space, or a line break and its indentation.
SPACE = r"\x20|\x0A(\x20{0,24}|\x09{0,8})"
SCHEMAS = {
    "object": {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
               "required": ["n", "ok"], "additionalProperties": False},
    "enumeration": {"enum": ["red", "green", 3, None, {"a": [1]}]},
    "list": {"type": "array", "items": {"type": "number", "minimum": -2, "maximum": 40}, "minItems": 2, "maxItems": 3},
    "text": {"type": "string", "maxLength": 6},
    "pattern": {"type": "string", "pattern": "^[a-f]{2}-[0-9]+$"},
    "any of": {"anyOf": [{"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": False},
                         {"type": "boolean"}]},
    "references": {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object", "properties": {"l": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["l"], "additionalProperties": False}}},
}


class Model:
    def __init__(self, name):
        family, dims, options = MODELS[name]
        self.name, self.context = name, options["context"]
        self.model = checkpoint(family, dims, 18 + list(MODELS).index(name))
        self.tokenizer = AutoTokenizer.from_pretrained(f"{LAYOUTS}/{name}")
        self.end = self.tokenizer.eos_token_id
        self.vocab = dims["vocab"]
        self.masks = from_tokenizer(self.tokenizer, n_vocab=self.vocab)

    def logits(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0]

    def bytes(self, token):
        text = self.tokenizer.convert_ids_to_tokens(token)
        if token in self.tokenizer.all_special_ids or text is None or token >= WORDS:
            return list((text or "").encode())
        # Byte-level vocabularies write bytes as characters: GPT-2's table.
        own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [b for b in range(256) if b not in own]
        table = {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}
        return [table[c] for c in text]

    def text(self, token):
        """The text of a token as OpenAI's completions write it."""
        data = bytes(self.bytes(token))
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in data)

    def greedy(self, prompt, most, change=lambda answer, row: row, chosen=lambda token: False):
        """Greedy tokens, the least gap, and whether the answer ended."""
        answer, gap = [], float("inf")
        while len(answer) < most:
            row = change(answer, self.logits(prompt + answer)[-1].clone())
            top = row.topk(2)
            gap = min(gap, (top.values[0] - top.values[1]).item())
            token = top.indices[0].item()
            if token == self.end:
                return answer, gap, True
            answer.append(token)
            if chosen(token):
                return answer, gap, True
        return answer, gap, False

    def search(self, seed, length, run):
        """The first prompt whose answer is clear."""
        rng = random.Random(seed)
        for _ in range(400):
            prompt = [rng.randrange(WORDS) for _ in range(length)]
            answer, gap, ended = run(prompt)
            if gap > GAP and answer and all(self.known(t) for t in answer):
                return prompt, answer, ended
        raise SystemExit(f"{self.name}: no clear prompt of {length} tokens")

    def known(self, token):
        return token < WORDS

    def probabilities(self, ids, begin, top):
        """Of the tokens from `begin` on: the log-probability, and the best of their place."""
        rows = torch.log_softmax(self.logits(ids), -1)
        found = []
        for place in range(begin, len(ids)):
            row = rows[place - 1]
            found.append({"token": self.text(ids[place]), "bytes": self.bytes(ids[place]),
                          "logprob": round(row[ids[place]].item(), 5),
                          "top": [round(v, 5) for v in row.topk(top).values.tolist()]})
        return found


def echoed(model, seed):
    prompt, answer, _ = model.search(seed, 11, lambda p: model.greedy(p, 5))
    body = {"prompt": prompt, "echo": True, "logprobs": 5, "max_tokens": 5, "temperature": 0}
    return {"kind": "echo", "body": body, "first": model.text(prompt[0]), "tokens": model.probabilities(prompt + answer, 1, 5)}


def chat(model):
    for text in ["Hi", "Go", "Why?", "2+2", "Ok", "So", "Map", "Now", "Up", "A"] + [chr(c) for c in range(0x61, 0x7B)]:
        messages = [{"role": "user", "content": text}]
        prompt = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        answer, gap, ended = model.greedy(prompt, 6)
        # What comes back is text: white space and marks of thoughts would be taken for such.
        if gap > GAP and not ended and all(0x20 < (model.bytes(t) or [0])[0] and t < WORDS for t in answer):
            body = {"messages": messages, "logprobs": True, "top_logprobs": 20, "max_tokens": 6, "temperature": 0}
            return {"kind": "chat", "body": body, "tokens": model.probabilities(prompt + answer, len(prompt), 20)}
    raise SystemExit(f"{model.name}: no clear chat")


def penalized(model, seed, presence, frequency, bias):
    biased = SequenceBiasLogitsProcessor([[[token], float(value)] for token, value in bias.items()]) if bias else None

    def change(answer, row):
        for token in set(answer):
            row[token] -= presence + frequency * answer.count(token)
        return biased(torch.tensor([[0]]), row[None])[0] if biased else row

    def run(prompt):
        answer, gap, ended = model.greedy(prompt, 10, change)
        # They have to matter.
        return (answer, gap, ended) if answer != model.greedy(prompt, 10)[0] else ([], 0, ended)

    prompt, answer, ended = model.search(seed, 9, run)
    body = {"prompt": prompt, "logprobs": 0, "max_tokens": 10, "temperature": 0, "presence_penalty": presence,
            "frequency_penalty": frequency, "logit_bias": {str(t): v for t, v in bias.items()}}
    return {"kind": "answer", "body": body, "tokens": [model.text(t) for t in answer], "finish": "stop" if ended else "length"}


def formed(model, seed, schema):
    grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": SPACE})

    def run(prompt):
        matcher, mask = LLMatcher(model.masks, grammar), allocate_token_bitmask(1, model.vocab)
        if matcher.get_error():
            raise SystemExit(matcher.get_error())

        def change(answer, row):
            fill_next_token_bitmask(matcher, mask)
            apply_token_bitmask_inplace(row[None], mask)
            # A step that the form leaves one token for is clear.
            return row.nan_to_num(neginf=-1e9)

        def chosen(token):
            if not matcher.consume_token(token):
                raise SystemExit(matcher.get_error())
            return matcher.is_stopped()

        return model.greedy(prompt, most, change, chosen)

    length = 7
    most = model.context - length - 1
    prompt, answer, ended = model.search(seed, length, run)
    body = {"prompt": prompt, "logprobs": 0, "max_tokens": most, "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    return {"kind": "answer", "body": body, "tokens": [model.text(t) for t in answer], "finish": "stop" if ended else "length"}


def main():
    cases = []
    for name in ["llama-monolithic", "qwen3-contexts"]:
        model = Model(name)
        found = [echoed(model, 1), chat(model), penalized(model, 2, 1.5, 0.0, {}), penalized(model, 3, 0.3, 0.8, {}),
                 penalized(model, 4, 0.0, 0.0, {65: 2.5, 66: -100}), penalized(model, 5, 0.5, -0.4, {10: 1.25})]
        found += [formed(model, 6 + i, schema) for i, schema in enumerate(SCHEMAS.values())]
        cases += [{"model": name, **case} for case in found]
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
