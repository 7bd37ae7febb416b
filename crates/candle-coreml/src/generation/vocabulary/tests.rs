//! Tokenizer files that are rejected, and files that load.

use serde_json::{Value, json};

use super::*;

/// A small WordLevel tokenizer.
fn plain() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "h": 2}, "unk_token": "[UNK]"},
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut file = plain();
    file[field] = value;
    file
}

fn read(file: &Value) -> Result<Vocabulary> {
    Vocabulary::read(Path::new("x/tokenizer.json"), file.to_string().as_bytes())
}

#[track_caller]
fn refused(file: &Value, part: &str) {
    match read(file) {
        Ok(_) => panic!("read, expected `{part}`"),
        Err(e) => assert!(e.to_string().contains(part) && e.to_string().starts_with("x/tokenizer.json"), "{part}: {e}"),
    }
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    for (field, value) in [
        ("truncation", json!({"max_length": 2, "stride": 2, "strategy": "LongestFirst", "direction": "Right"})),
        ("truncation", json!({"max_length": 0, "stride": 9, "strategy": "OnlySecond", "direction": "Left"})),
        (
            "padding",
            json!({"strategy": {"Fixed": 2_000_000_000u32}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
        ),
        ("padding", json!({"strategy": "BatchLongest", "pad_to_multiple_of": u64::MAX})),
    ] {
        let tokenizer = read(&with(field, value)).expect("read");
        assert_eq!(tokenizer.encode("a a a h", false).expect("encoded"), [1, 1, 1, 2], "{field}");
    }
    let cut = read(&with("truncation", json!({"max_length": 128, "stride": 0})));
    assert_eq!(cut.expect("read").truncation(), Some(128));
}

/// A post-processor that prepends a token to a sequence; the token `a` is known.
fn template(sequence: &str, token: &str, tokens: &[&str]) -> Value {
    let single = json!([{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": sequence, "type_id": 0}}]);
    let special = json!({"a": {"id": "a", "ids": [1], "tokens": tokens}});
    json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special})
}

#[test]
fn texts_grow_by_a_known_factor() {
    let hundred = "h".repeat(100);
    let grow = replace(json!({"String": "h"}), &hundred);
    let six = json!({"type": "Sequence", "normalizers": vec![grow.clone(); 6]});
    let nested =
        (0..30).fold(grow.clone(), |inner, _| json!({"type": "Sequence", "normalizers": [inner, grow.clone()]}));
    for (field, value, part) in [
        ("normalizer", six, "at most 64 times as long"),
        ("normalizer", grow.clone(), "at most 64 times as long"),
        ("normalizer", nested, "at most 64 times as long"),
        ("normalizer", replace(json!({"Regex": ""}), &hundred), "at most 64 times as long"),
        ("normalizer", replace(json!({"String": ""}), &hundred), "at most 64 times as long"),
        ("normalizer", replace(json!({"String": "h"}), &"h".repeat(1000)), "at most 256 bytes"),
        ("normalizer", json!({"type": "Prepend", "prepend": "x".repeat(50_000_000)}), "at most 256 bytes"),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFKC"}); 3]}),
            "at most 64 times",
        ),
        ("normalizer", json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 1000]}), ""),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "Strip"}); 1000]}),
            "at most 64 steps",
        ),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA/////w=="}), "a trie of 4278190080"),
        ("normalizer", json!({"type": "Precompiled"}), "precompiled_charsmap"),
        ("normalizer", json!({"type": "Nothing"}), "`normalizer.type`: expected a known type, found `Nothing`"),
        ("normalizer", json!({}), "an object with a `type`"),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 7]}),
            "at most 64 times",
        ),
        ("pre_tokenizer", json!({"type": "Sequence"}), "`pretokenizers` of a sequence"),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "at least 1"),
        ("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "a".repeat(20_000)}}), "at most 16384 bytes"),
        ("decoder", json!({"type": "Sequence", "decoders": vec![grow.clone(); 6]}), "at most 64 times"),
        (
            "decoder",
            json!({"type": "Strip", "content": " ", "start": 0, "stop": 2}),
            "`decoder.stop`: expected 0, found 2",
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 0, "stop": 1}]}),
            "`decoder.stop`",
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "pair": [], "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 9], "special_tokens": {}}),
            "at most 1 texts",
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "pair": [], "single": [{"SpecialToken": {"id": "a", "type_id": 0}}], "special_tokens": {"a": {"id": "a", "ids": vec![1; 1000], "tokens": vec!["a"; 1000]}}}),
            "added tokens",
        ),
        ("post_processor", template("A", "q", &["a"]), "`q` with as many ids as tokens"),
        ("post_processor", template("A", "a", &["a", "a"]), "`a` with as many ids as tokens"),
        ("post_processor", template("B", "a", &["a"]), "the sequence `A`"),
        ("version", json!("2.0"), "`version`: expected 1.0"),
    ] {
        refused(&with(field, value), part);
    }
    // Accepted rules determine the maximum length of a text.
    let usual = read(&with("normalizer", replace(json!({"String": " "}), "▁"))).expect("read");
    assert_eq!(usual.longest, LONGEST_TEXT);
    let wide = read(&with("normalizer", replace(json!({"String": "h"}), &"h".repeat(60)))).expect("read");
    assert_eq!(wide.longest, LONGEST_NORMALIZED / 60);
    let message = wide.encode(&"h".repeat(wide.longest + 1), false).expect_err("too long").to_string();
    assert!(message.contains(&format!("at most {} bytes", wide.longest)), "{message}");
}

#[test]
fn expressions_that_backtrack_get_short_texts_only() {
    let split = |regex: &str| {
        let pre = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        read(&with("pre_tokenizer", pre)).expect("read").longest
    };
    let gpt = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    assert_eq!(split(gpt), LONGEST_TEXT);
    for regex in [r"(?=(\d{3})+(?!\d))", r"(a+)+\1", r"(?<=a)b", r"(?<!a)b", r"a(?!b)", r"(?<n>a)\k<n>"] {
        assert_eq!(split(regex), LONGEST_BACKTRACKED, "{regex}");
    }
    refused(
        &with(
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        ),
        "",
    );
}

#[test]
fn models_are_within_their_bounds() {
    let long = "h".repeat(9000);
    let model = |value: Value| with("model", value);
    let bpe = |prefix: &str, merges: Value| {
        model(
            json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": merges, "continuing_subword_prefix": prefix}),
        )
    };
    for (file, part) in [
        (model(json!({"type": "WordLevel", "vocab": {&long: 0}, "unk_token": "a"})), "at most 8192 bytes of a token"),
        (
            with(
                "added_tokens",
                json!([{"id": 9, "content": long, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]),
            ),
            "at most 8192 bytes of a token",
        ),
        (model(json!({"type": "Unigram", "vocab": [["a".repeat(100_000), 0.0]], "unk_id": 0})), "bytes of a"),
        (
            model(json!({"type": "Unigram", "vocab": [["a".repeat(300), 0.0]], "unk_id": 0})),
            "at most 256 bytes of a piece",
        ),
        (model(json!({"type": "Unigram", "vocab": [["", 0.0]], "unk_id": 0})), "an empty one"),
        (model(json!({"type": "Unigram", "vocab": [["a", "nan"]], "unk_id": 0})), "invalid type"),
        (model(json!({"type": "Unigram", "vocab": [], "unk_id": 0})), "mpty"),
        (model(json!({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 5})), ""),
        (
            model(
                json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000_000}),
            ),
            "max_input_chars_per_word",
        ),
        (bpe("###", json!([["a", "b"]])), "right halves of at least the 3 bytes"),
        (bpe("###", json!(["a b"])), "right halves of at least the 3 bytes"),
        (bpe("", json!([["a", "zz"]])), "zz"),
        (bpe("", json!(["a b c"])), ""),
        (model(json!({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 7.0})), ""),
        (model(json!({"type": "Other", "vocab": {}})), "`model.type`"),
        (model(json!({"type": "BPE"})), "vocab"),
        (model(json!([])), ""),
    ] {
        refused(&file, part);
    }
    let mut cut = plain();
    cut["decoder"] = replace(json!({"String": "h"}), &"h".repeat(60));
    cut["model"]["vocab"][&"h".repeat(200)] = json!(3);
    refused(&cut, "bytes of a decoded token");
    assert!(Vocabulary::read(Path::new("x"), b"").is_err());
    let deep = format!("{{\"normalizer\": {}", "[".repeat(100_000));
    let message = Vocabulary::read(Path::new("x"), deep.as_bytes()).expect_err("too deep").to_string();
    assert!(message.contains("recursion limit"), "{message}");
    // Of two duplicates, the library would use the second.
    let twice = plain().to_string().replacen('{', r#"{"normalizer": {"type": "Prepend", "prepend": "x"}, "#, 1);
    assert!(Vocabulary::read(Path::new("x"), twice.as_bytes()).is_err());
}

/// An empty token list makes this decoder panic if overflow checks are on.
#[test]
fn a_panic_of_the_library_is_an_error_or_does_not_happen() {
    let tokenizer = read(&with("decoder", json!({"type": "BPEDecoder", "suffix": "</w>"}))).expect("read");
    if let Ok(text) = tokenizer.decode(&[]) {
        assert_eq!(text, "");
    }
    assert_eq!(
        contained(|| -> tokenizers::Result<()> { panic!("as a library may") }),
        Err("the tokenizers library failed on it".to_owned())
    );
}
