//! Random tokens under constraints: whatever the tokenizer, the decoded text is in the form.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::generation::{Processors, Sampler, Sampling};

/// Characters that byte-level vocabularies write bytes with, in the order of the bytes.
fn letters() -> Vec<String> {
    let own = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut letter = |b: u32| {
        let code = if own(b) { b } else { next };
        next += u32::from(!own(b));
        char::from_u32(code).expect("a character").to_string()
    };
    (0..=255).map(&mut letter).collect()
}

/// A tokenizer of these tokens with this decoder. Tokens in angle brackets without digits are special.
fn tokenizer(tokens: &[String], decoder: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().expect("a folder");
    let special = |t: &str| t.len() > 2 && t.starts_with('<') && t.ends_with('>') && !t.contains("0x");
    let vocab: serde_json::Map<String, Value> = tokens.iter().enumerate().map(|(i, t)| (t.clone(), json!(i))).collect();
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .filter(|(_, t)| special(t))
        .map(|(id, t)| {
            json!({"id": id, "content": t, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false})
        })
        .collect();
    let file = json!({"version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder, "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).expect("written");
    let settings = json!({"eos_token": "<end>"});
    std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).expect("written");
    Tokenizer::load(folder.path()).expect("a tokenizer")
}

/// Whole words, halves of characters, tokens over the borders of JSON's parts: what real vocabularies have.
fn tokenizers() -> Vec<(&'static str, Tokenizer, usize)> {
    let words = [
        "{\"", "\": ", "\", \"", "name", "\"}", "true", " true", "nul", "12", "-", " 3", "é", "\n  ", "]}", "[[", "  ",
    ];
    let own = ["<end>", "<other>"].map(str::to_owned);
    let all = letters();
    let level = |text: &str| text.bytes().map(|b| all[usize::from(b)].clone()).collect::<String>();
    let bytes: Vec<String> = all.iter().cloned().chain(words.iter().map(|w| level(w))).chain(own.clone()).collect();
    let marked = |w: &&str| w.replace(' ', "▁");
    let ascii = (0x21u8..0x7F).filter(|b| *b != b'<').map(|b| char::from(b).to_string()).chain(["▁".to_owned()]);
    let pieces: Vec<String> = ascii.chain(words.iter().map(marked)).chain(own).collect();
    let with_bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).chain(pieces.clone()).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let fallback = |last: &[Value]| {
        let first = [replace.clone(), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let all = [&first, last].concat();
        json!({"type": "Sequence", "decoders": all})
    };
    let meta = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    [
        (
            "bytes",
            bytes,
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ),
        ("fallback", with_bytes.clone(), fallback(&[])),
        ("fallback, stripped", with_bytes, fallback(&[strip])),
        ("metaspace", pieces, meta),
    ]
    .into_iter()
    .map(|(name, tokens, decoder)| (name, tokenizer(&tokens, &decoder), tokens.len()))
    .collect()
}

/// The text of random tokens under a grammar, if it is complete after so many.
fn random(tokenizer: &Tokenizer, vocab: usize, grammar: &Grammar, seed: u64) -> Option<String> {
    let mut processors = Processors::default();
    processors.push(Constraint::new(tokenizer, grammar).expect("a constraint"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() });
    let mut answer: Vec<u32> = Vec::new();
    for _ in 0..400 {
        if processors.complete() {
            answer.retain(|t| !tokenizer.end_tokens().contains(t));
            return Some(tokenizer.decode(&answer).expect("a text"));
        }
        // Two padding rows behind the vocabulary, as models have.
        let mut logits: Vec<f32> = (0..vocab + 2).map(|_| random.random_range(-2.0..2.0)).collect();
        processors.process(Seen { tokens: &answer, answer: &answer }, &mut logits).expect("something can follow");
        let token = sampler.choose(&logits, &[]);
        assert!((token as usize) < vocab, "a padding row was chosen");
        processors.chosen(token).expect("it was allowed");
        answer.push(token);
    }
    None
}

#[test]
fn random_answers_are_in_the_form_for_every_tokenizer() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "size": {"type": "integer", "minimum": -5, "maximum": 300},
            "tags": {"type": "array", "items": {"enum": ["a", "é", 3, null]}, "maxItems": 3},
            "more": {"$ref": "#/$defs/more"},
        },
        "required": ["name", "size", "tags"],
        "additionalProperties": false,
        "$defs": {"more": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}},
    });
    let grammar = Grammar::json_schema(&schema).expect("a schema");
    let pattern = Grammar::regex("-?[0-9]{1,3}( [a-z]{2,8}|é)").expect("an expression");
    for (name, tokenizer, vocab) in tokenizers() {
        let mut complete = 0;
        for seed in 0..12 {
            let Some(text) = random(&tokenizer, vocab, &grammar, seed) else { continue };
            complete += 1;
            let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"));
            let object = found.as_object().expect("an object");
            assert!(object["name"].as_str().is_some_and(|n| n.chars().count() <= 6), "{name}: {text}");
            assert!(object["size"].as_i64().is_some_and(|n| (-5..=300).contains(&n)), "{name}: {text}");
            let tags = object["tags"].as_array().expect("an array");
            let known = [json!("a"), json!("é"), json!(3), Value::Null];
            assert!(tags.len() <= 3 && tags.iter().all(|t| known.contains(t)), "{name}: {text}");
            assert!(object.get("more").is_none_or(|m| m.is_boolean() || m.is_null()), "{name}: {text}");
            assert!(object.keys().all(|k| ["name", "size", "tags", "more"].contains(&k.as_str())), "{name}: {text}");
        }
        assert!(complete >= 6, "{name}: {complete} answers are complete");
        for seed in 0..12 {
            // Without `é` the vocabulary of pieces can't end in it, but it has letters.
            let text = random(&tokenizer, vocab, &pattern, seed).expect("it ends");
            let digits = text.trim_start_matches('-').chars().take_while(char::is_ascii_digit).count();
            let rest = &text[text.find(|c: char| !c.is_ascii_digit() && c != '-').expect("a word")..];
            let word = rest.strip_prefix(' ').is_some_and(|w| (2..=8).contains(&w.len()));
            assert!((1..=3).contains(&digits) && (word || rest == "é"), "{name}: {text:?}");
        }
    }
}

#[test]
fn any_object_is_json_and_deep_ones_end_in_errors_or_objects() {
    let (_, tokenizer, vocab) = tokenizers().swap_remove(0);
    let mut complete = 0;
    for seed in 0..40 {
        if let Some(text) = random(&tokenizer, vocab, &Grammar::json_object(), seed) {
            match serde_json::from_str::<Value>(&text) {
                Ok(found) => assert!(found.is_object(), "{text}"),
                // `1e999` is a number of JSON (RFC 8259, 6), but of no f64.
                Err(e) => assert!(e.to_string().starts_with("number out of range"), "{e}: {text}"),
            }
            complete += 1;
        }
    }
    assert!(complete > 0, "no answer is complete");
    // As deep as the server's reader lets a schema be.
    let mut schema = json!({"type": "null"});
    for _ in 0..60 {
        schema = json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
    }
    let deep = Grammar::json_schema(&schema).expect("an object");
    let mut lists = json!({"type": "null"});
    for _ in 0..120 {
        lists = json!({"items": lists});
    }
    let lists = Grammar::json_schema(&lists).expect("an object");
    let built = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || [deep, lists].map(|g| Constraint::new(&tokenizer, &g).map(drop).map_err(|e| e.to_string())));
    // An error or a constraint; no overflow of the stack.
    drop(built.expect("a thread").join().expect("no panic"));
}

#[test]
fn what_can_not_be_enforced_is_named() {
    let (_, tokenizer, _) = tokenizers().swap_remove(0);
    let fail = |schema: Value| {
        let built = Grammar::json_schema(&schema).and_then(|g| Constraint::new(&tokenizer, &g));
        built.map(drop).expect_err("refused").to_string()
    };
    for (schema, part) in [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"type": "string"}}), "not"),
        (json!({"if": {}, "then": {}}), "if"),
        (json!({"type": "string", "pattern": "(a"}), "regex"),
        (json!({"$ref": "https://example.com/x"}), "example.com"),
        (json!({"$ref": "#/$defs/none"}), "none"),
        (json!({"type": "wrong"}), "wrong"),
        (json!({"x-guidance": {"item_separator": ";"}}), "x-guidance"),
        (json!(false), "nothing"),
        (json!([]), "an object"),
    ] {
        let message = fail(schema.clone());
        assert!(message.contains(part) && !message.contains('\n'), "{schema}: {message}");
    }
    assert!(Grammar::regex("x".repeat(LONGEST_GRAMMAR + 1)).is_err());
    let wrong = Constraint::new(&tokenizer, &Grammar::lark("start: other").expect("short")).expect_err("refused");
    assert!(wrong.to_string().contains("other"), "{wrong}");
    let pieces = tokenizer_of_word_pieces();
    let refused = Constraint::new(&pieces, &Grammar::json_object()).expect_err("refused").to_string();
    assert!(refused.contains("WordPiece"), "{refused}");
}

fn tokenizer_of_word_pieces() -> Tokenizer {
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    tokenizer(&["a".to_owned(), "##b".to_owned(), "<end>".to_owned()], &decoder)
}

#[test]
fn another_answer_begins_anew() {
    let (_, tokenizer, vocab) = tokenizers().swap_remove(0);
    let mut one = Constraint::new(&tokenizer, &Grammar::regex("ab").expect("short")).expect("a constraint");
    let allowed = |c: &mut dyn LogitsProcessor| {
        let mut logits = vec![0.0; vocab];
        c.process(Seen { tokens: &[], answer: &[] }, &mut logits).expect("something can follow");
        (0..vocab).filter(|&i| logits[i] == 0.0).collect::<Vec<_>>()
    };
    let (a, b) = (usize::from(b'a'), usize::from(b'b'));
    assert_eq!(allowed(&mut one), [a]);
    one.chosen(a as u32).expect("allowed");
    assert_eq!((allowed(&mut one), allowed(&mut *one.fresh())), (vec![b], vec![a]));
    one.chosen(b as u32).expect("allowed");
    assert!(one.complete() && !one.fresh().complete(), "nothing can follow, so it ends here");
}
