"""Train small SentencePiece models, and write the ids that SentencePiece gives texts.

    python -m tools.sentencepiece_models conformance/sentencepiece

`{name}/tokenizer.model` as repositories have it, `{name}/tokenizer_config.json` with what transformers adds to it, and
`{name}/cases.json`: texts, the ids of `SentencePieceProcessor.encode`, and the text that `decode` makes of these.
"""

import json
import sys
import tempfile
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).parent.parent
TEXTS = ["", " ", "Hello world", " Hello  world ", "   three   spaces   ", "a\nb\n\nc\n", "\tTab", "x", "An unigram: naïve café",
         "Grüße aus Zürich, 12,345.67 €", "日本語のテキスト", "emoji 😀 👩‍👩‍👧", "▁already▁there", "the the the", "1234567890",
         "<0x41> is bytes", "tokenizer.model\u00a0and\u3000spaces", "ﬁne ① ②", "<tool> {\"a\": [1, 2]} </tool>x<tool>", "\n\n\n",
         "def f(x):\n    return x ** 2\n", "\u212b\u212b \u00e9 e\u0301", "end "]
RULES = {"\ufb01": "fi", "\u2460": "1", "\u2461": "2", "\u3000": " ", "\u00a0": " ", "e\u0301": "\u00e9", "\u212b": "\u00c5"}


def train(folder, **options):
    corpus = [line for f in ["README.md", "ARCHITECTURE.md", "docs/kernels.md"] for line in (ROOT / f).read_text().split("\n")]
    corpus += [t for t in TEXTS if t.strip()] * 2
    with tempfile.TemporaryDirectory() as work:
        if options.pop("rules", False):
            table = Path(work) / "rules.tsv"
            code = lambda text: " ".join(f"{ord(c):X}" for c in text)  # noqa: E731
            table.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in RULES.items()))
            options["normalization_rule_tsv"] = str(table)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=f"{work}/m", num_threads=1, minloglevel=2,
            character_coverage=0.98, **options)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.model").write_bytes((Path(work) / "m.model").read_bytes())


MODELS = {
    # As Llama's and Mistral's.
    "bpe": dict(model_type="bpe", vocab_size=600, byte_fallback=True, normalization_rule_name="identity",
                remove_extra_whitespaces=False, split_digits=True),
    # As Gemma's: pieces that are never split, no space before the text.
    "bpe-user-defined": dict(model_type="bpe", vocab_size=600, byte_fallback=True, normalization_rule_name="identity",
                             remove_extra_whitespaces=False, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
                             user_defined_symbols=["<tool>", "</tool>", "\n\n", "\n\n\n", "(x):"]),
    # As T5's: a table for normalization, extra spaces removed, unknown characters.
    "unigram": dict(model_type="unigram", vocab_size=500, rules=True, bos_id=-1, pad_id=3),
    "unigram-bytes": dict(model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="identity"),
}


def main():
    out = Path(sys.argv[1])
    for name, options in MODELS.items():
        train(out / name, **dict(options))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(out / name / "tokenizer.model"))
        size = processor.vocab_size()
        config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {
            str(size): {"content": "<|im_start|>", "special": True}, str(size + 1): {"content": "<|im_end|>", "special": True}}}
        (out / name / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
        cases = [{"text": t, "ids": processor.encode(t), "decoded": processor.decode(processor.encode(t))} for t in TEXTS]
        (out / name / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
        print(name, size, (out / name / "tokenizer.model").stat().st_size)


if __name__ == "__main__":
    main()
