"""Create small random encoders and what transformers computes with them in f32.

    python -m tools.encoder_reference --out conformance/encoders

Each folder has the files of a Hugging Face repository; some are sentence-transformers, with modules.json and the
folders that it names. reference.safetensors: `ids` and `mask` [texts, tokens] I64, `types` where the family has them,
`states` [texts, tokens, width] F32, `pooled` [texts, width] F32 (the pooler's output, or the embedding of the modules,
computed here by the formulas of sentence-transformers' `Pooling`, `Dense` and `Normalize`); of classifiers `logits`
[texts, labels] F32, or [texts, tokens, labels], in place of `pooled`.

CamemBERT's folder has a tokenizer of SentencePiece's kind as well (Unigram, in tokenizer.json, with the tokens that fairseq
put before the pieces); texts.json: texts, their ids and vectors as transformers computes them.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel, CamembertConfig,
                          CamembertForSequenceClassification, CamembertModel, DistilBertConfig, DistilBertForSequenceClassification,
                          DistilBertForTokenClassification, DistilBertModel, MPNetConfig, MPNetForSequenceClassification, MPNetModel,
                          RobertaConfig, RobertaForSequenceClassification, RobertaModel, XLMRobertaConfig,
                          XLMRobertaForTokenClassification, XLMRobertaModel)

SIZES = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
# Of classifiers.
SMALL = dict(vocab_size=96, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40)
DISTIL = dict(vocab_size=96, dim=24, n_layers=1, n_heads=3, hidden_dim=40, max_position_embeddings=40)
COUNTED = dict(max_position_embeddings=42, type_vocab_size=1, pad_token_id=1)


def labels(*names):
    return dict(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


# Name: model, configuration, stored type, files, modules (pooling, dense width, normalize).
ENCODERS = {
    "bert-pooler-f16": (BertModel, BertConfig(max_position_embeddings=40, **SIZES), torch.float16, 1, None),
    "bert-mean-shards-f32": (BertModel, BertConfig(max_position_embeddings=40, hidden_act="gelu_new", **SIZES),
                             torch.float32, 2, ("mean_tokens", None, True)),
    "roberta-cls-bf16": (RobertaModel, RobertaConfig(max_position_embeddings=42, type_vocab_size=1, layer_norm_eps=1e-5,
                                                     pad_token_id=1, **SIZES), torch.bfloat16, 1, ("cls_token", None, True)),
    "xlm-roberta-max-f16": (XLMRobertaModel, XLMRobertaConfig(max_position_embeddings=42, type_vocab_size=1, pad_token_id=1,
                                                              **SIZES), torch.float16, 1, ("max_tokens", 24, False)),
    "camembert-mean-f16": (CamembertModel, CamembertConfig(max_position_embeddings=42, type_vocab_size=1, pad_token_id=1,
                                                           bos_token_id=5, eos_token_id=6, layer_norm_eps=1e-5, **SIZES),
                           torch.float16, 1, ("mean_tokens", None, True)),
    "distilbert-f16": (DistilBertModel, DistilBertConfig(vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=48,
                                                         max_position_embeddings=40, activation="relu"),
                       torch.float16, 1, None),
    # Distances up to 39 reach the buckets that are logarithmic.
    "mpnet-sqrt-f16": (MPNetModel, MPNetConfig(max_position_embeddings=42, **SIZES), torch.float16, 1,
                       ("mean_sqrt_len_tokens", None, True)),
    "bert-texts-f16": (BertForSequenceClassification,
                       BertConfig(max_position_embeddings=40, **SMALL, **labels("bad", "so \"so\"", "good")), torch.float16, 1, None),
    # One kind of tokens.
    "bert-tokens-bf16": (BertForTokenClassification,
                         BertConfig(max_position_embeddings=40, type_vocab_size=1, **SMALL,
                                    **labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")), torch.bfloat16, 1, None),
    # A score.
    "roberta-texts-f16": (RobertaForSequenceClassification, RobertaConfig(**COUNTED, **SMALL, **labels("score")), torch.float16, 1, None),
    "xlm-roberta-tokens-f16": (XLMRobertaForTokenClassification, XLMRobertaConfig(**COUNTED, **SMALL, **labels("O", "B", "I")),
                               torch.float16, 1, None),
    "camembert-texts-f32": (CamembertForSequenceClassification,
                            CamembertConfig(bos_token_id=5, eos_token_id=6, **COUNTED, **SMALL, **labels("non", "oui")),
                            torch.float32, 1, None),
    "distilbert-texts-f16": (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL, **labels("a", "b", "c", "d")),
                             torch.float16, 1, None),
    "distilbert-tokens-f16": (DistilBertForTokenClassification, DistilBertConfig(**DISTIL, **labels("O", "X")),
                              torch.float16, 1, None),
    "mpnet-texts-f16": (MPNetForSequenceClassification, MPNetConfig(max_position_embeddings=42, **SMALL, **labels("x", "y", "z")),
                        torch.float16, 1, None),
}
MODES = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]


def inputs(model, generator):
    """Texts of 1, 7 and 39 tokens; none is the padding's id."""
    lengths, longest = [1, 7, 39], 39
    ids = torch.randint(4, 96, (3, longest), generator=generator)
    mask = torch.tensor([[int(i < n) for i in range(longest)] for n in lengths])
    pad = 1 if isinstance(model.base_model, MPNetModel) else model.config.pad_token_id
    return torch.where(mask.bool(), ids, torch.full_like(ids, pad)), mask


def pool(states, mask, mode):
    m = mask[..., None].float()
    if mode == "cls_token":
        return states[:, 0]
    if mode == "max_tokens":
        return states.masked_fill(m == 0, -1e9).max(1).values
    total = (states * m).sum(1)
    return total / (m.sum(1) if mode == "mean_tokens" else m.sum(1).sqrt())


TEXTS = ["Le chat dort sur le canapé.", "Où est le chien ?", "L'été, il fait très chaud ici", "naïve 語 l’œuf   ﬁn", "a"]


PIECES = ("▁ ▁le ▁la ▁les ▁l ▁un ▁une ▁des ▁chat ▁chien ▁ch at ien ▁est ▁sur ▁dans ▁ici ▁il ▁elle ▁fait ▁très ▁chaud aud ▁été "
          "▁d or t ▁can ap é è ê ï où ' , . ? ! œ œu fi uf ▁na ve ïve ▁Le ▁O ▁L ▁Où e s a i n r u l o d c p m é v q f b g h j x y z à "
          "ç ù ô û î â").split()


def tokenizer():
    """Pieces with a worth of their own, after the tokens of fairseq; ids of `<s>` and `</s>` are 5 and 6."""
    pieces = [(p, -2.0 - 0.07 * i) for i, p in enumerate(dict.fromkeys(PIECES))]
    assert len(pieces) <= 89
    before = [["<s>NOTUSED", 0.0], ["<pad>", 0.0], ["</s>NOTUSED", 0.0], ["<unk>", 0.0], ["<unk>NOTUSED", -100.0],
              ["<s>", 0.0], ["</s>", 0.0]]
    made = Tokenizer(models.Unigram([tuple(v) for v in before] + pieces, unk_id=3))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.add_special_tokens(["<s>", "</s>", "<pad>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                                        special_tokens=[("<s>", 5), ("</s>", 6)])
    return made


def write_texts(folder, model, modules):
    """A tokenizer, and texts with the vectors that transformers computes, each text alone."""
    made = tokenizer()
    made.save(str(folder / "tokenizer.json"))
    out = []
    for text in TEXTS:
        ids = torch.tensor([made.encode(text).ids])
        mask = torch.ones_like(ids)
        pooled = pool(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, modules[0])
        out.append(dict(text=text, ids=ids[0].tolist(), vector=torch.nn.functional.normalize(pooled, dim=1)[0].tolist()))
    (folder / "texts.json").write_text(json.dumps(out, ensure_ascii=False, indent=1))


def write_modules(folder, modules, width, dense):
    mode, out, normalize = modules
    base = "sentence_transformers.models."
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    config = {"word_embedding_dimension": width, **{f"pooling_mode_{m}": m == mode for m in MODES}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if out:
        listed.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir(exist_ok=True)
        config = dict(in_features=width, out_features=out, bias=True,
                      activation_function="torch.nn.modules.activation.Tanh")
        (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
        save_file({"linear.weight": dense.weight.data.half(), "linear.bias": dense.bias.data.half()},
                  folder / "2_Dense" / "model.safetensors")
    if normalize:
        listed.append((f"{len(listed)}_Normalize", "Normalize"))
    entries = [dict(idx=i, name=str(i), path=path, type=base + kind) for i, (path, kind) in enumerate(listed)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "sentence_bert_config.json").write_text(json.dumps(dict(max_seq_length=39, do_lower_case=False)))


def create(name, out):
    kind, config, dtype, files, modules = ENCODERS[name]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    model = kind(config).eval().float()
    dense = torch.nn.Linear(32, modules[1]) if modules and modules[1] else None
    with torch.no_grad():
        for part in filter(None, (model, dense)):
            for key, p in part.named_parameters():
                new = torch.randn(p.shape, generator=generator) * (0.25 if p.dim() > 1 else 0.3)
                if key.lower().endswith("norm.weight"):
                    new += 1
                p.copy_(new.to(torch.float16 if part is dense else dtype).float())
        ids, mask = inputs(model, generator)
        types = {}
        if isinstance(model.base_model, BertModel) and config.type_vocab_size > 1:
            types = {"token_type_ids": torch.randint(0, 2, ids.shape, generator=generator)}
        result = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **types)
        states = result.hidden_states[-1]
        pooled = getattr(result, "pooler_output", None)
        if modules:
            pooled = pool(states, mask, modules[0])
            if dense is not None:
                pooled = torch.tanh(dense(pooled))
            if modules[2]:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            write_modules(folder, modules, 32, dense)
        if kind is CamembertModel:
            write_texts(folder, model, modules)
    tensors = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        weight_map = {}
        for i in range(files):
            file = f"model-{i + 1:05}-of-{files:05}.safetensors"
            part = {k: v for n, (k, v) in enumerate(tensors.items()) if n % files == i}
            weight_map.update({k: file for k in part})
            save_file(part, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    model.config.architectures = [kind.__name__]
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1, default=str))
    reference = dict(ids=ids, mask=mask, states=states.contiguous())
    if types:
        reference["types"] = types["token_type_ids"]
    if pooled is not None:
        reference["pooled"] = pooled.contiguous()
    if "logits" in result:
        reference["logits"] = result.logits.contiguous()
    save_file(reference, folder / "reference.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("conformance/encoders"))
    parser.add_argument("--only", choices=ENCODERS, nargs="*", default=list(ENCODERS))
    options = parser.parse_args()
    for name in options.only:
        create(name, options.out)
        print(name)
