"""A WordPiece tokenizer and a small BERT that classifies the intent of a sentence."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers, decoders
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from . import data

LENGTH = 48  # maximum length of a sentence in tokens, including special tokens


def tokenizer(rng, sentences=4000, vocab=600):
    """Lower-cased WordPiece, learned from training sentences, padded by batch."""
    texts = [data.sample(rng)[0] for _ in range(sentences)]
    result = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    result.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=special))
    markers = [(t, result.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    result.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=markers)
    result.enable_truncation(LENGTH)
    result.enable_padding(pad_id=0, pad_token="[PAD]")
    return result


def config(vocab):
    """2 layers, hidden 64: about 140,000 parameters."""
    return BertConfig(
        vocab_size=vocab, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192,
        max_position_embeddings=LENGTH, type_vocab_size=1, attn_implementation="eager",
        id2label=dict(enumerate(data.LABELS)), label2id={name: i for i, name in enumerate(data.LABELS)},
    )


def batch(encoder, texts):
    """Token ids and mask, both [sentences, tokens] int32."""
    encoded = encoder.encode_batch(texts)
    tensor = lambda rows: torch.tensor(rows, dtype=torch.int32)
    return tensor([e.ids for e in encoded]), tensor([e.attention_mask for e in encoded])


def train(encoder, rng, steps, rate=2e-3):
    """Train the model; weights are rounded to fp16, as stored in the package."""
    model = BertForSequenceClassification(config(encoder.get_vocab_size()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        rows = [data.sample(rng) for _ in range(32)]
        ids, mask = batch(encoder, [text for text, _ in rows])
        goal = torch.tensor([data.LABELS.index(intent) for _, intent in rows])
        loss = cross_entropy(model(input_ids=ids, attention_mask=mask).logits, goal, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval().half().float()


def accuracy(model, encoder, rows):
    """Fraction of sentences classified correctly."""
    ids, mask = batch(encoder, [r["text"] for r in rows])
    with torch.no_grad():
        named = model(input_ids=ids, attention_mask=mask).logits.argmax(-1).tolist()
    return sum(data.LABELS[n] == r["intent"] for n, r in zip(named, rows)) / len(rows)
