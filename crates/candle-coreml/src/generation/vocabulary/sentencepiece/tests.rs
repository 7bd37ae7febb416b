//! SentencePiece models against SentencePiece itself: `tools/sentencepiece_models.py`.

use std::path::{Path, PathBuf};

use super::super::Vocabulary;
use super::*;

const MODELS: [&str; 4] = ["bpe", "bpe-user-defined", "unigram", "unigram-bytes"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/sentencepiece").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn model(name: &str) -> Vec<u8> {
    std::fs::read(folder(name).join("tokenizer.model")).expect("a model")
}

#[test]
fn texts_get_the_ids_that_sentencepiece_gives_them() {
    let mut wrong = Vec::new();
    for name in MODELS {
        let folder = folder(name);
        let settings = json_of(&folder.join("tokenizer_config.json"));
        let vocabulary = Vocabulary::of_folder(&folder, &settings).expect("it loads");
        let cases = json_of(&folder.join("cases.json"));
        for case in cases.as_array().expect("cases") {
            let text = case["text"].as_str().expect("a text");
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
            let found = vocabulary.encode(text, false).expect("encoded");
            if found != ids {
                wrong.push(format!("{name}: {text:?}: found {found:?}, expected {ids:?}"));
            }
            let decoded = vocabulary.decode(&ids).expect("decoded");
            // Unknown characters are left out, where SentencePiece writes ` ⁇ `.
            if !ids.contains(&(unknown(&Model::parse(&model(name)).expect("a model")) as u32))
                && decoded != case["decoded"].as_str().expect("a text")
            {
                wrong.push(format!("{name}: {text:?}: decoded {decoded:?}, expected {:?}", case["decoded"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn special_tokens_stand_where_the_settings_put_them() {
    let settings = json_of(&folder("bpe").join("tokenizer_config.json"));
    let encode = |changes: &[(&str, Value)], text: &str, special: bool| {
        let mut settings = settings.clone();
        for (name, value) in changes {
            settings[*name] = value.clone();
        }
        Vocabulary::of_folder(&folder("bpe"), &settings).expect("it loads").encode(text, special).expect("encoded")
    };
    let plain = encode(&[], "Hello", false);
    assert_eq!(encode(&[], "Hello", true), [&[1], &plain[..]].concat());
    assert_eq!(encode(&[("add_bos_token", json!(false))], "Hello", true), plain);
    assert_eq!(encode(&[("add_eos_token", json!(true))], "Hello", true), [&[1], &plain[..], &[2]].concat());
    // An added token: the text after it begins with a space too, or not.
    assert_eq!(encode(&[], "<|im_end|>Hello", false), [&[601], &plain[..]].concat());
    let later = encode(&[("legacy", json!(false))], "<|im_end|>Hello", false);
    assert!(later[0] == 601 && later[1..] != plain[..], "{later:?}");
    assert_eq!(encode(&[], "</s>", false), [2]);
    let no_bos = json_of(&folder("unigram").join("tokenizer_config.json"));
    let unigram = Vocabulary::of_folder(&folder("unigram"), &no_bos).expect("it loads");
    assert_eq!(unigram.encode("the", true).expect("encoded"), unigram.encode("the", false).expect("encoded"));
}

/// A field of bytes.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).expect("short")], content].concat()
}

#[test]
fn what_can_not_be_done_the_same_is_refused() {
    let unknown = bytes(1, &[&bytes(1, b"<unk>")[..], &[0x18, 2]].concat());
    let with = |more: &[u8]| as_json(&[&unknown[..], more].concat(), &Value::Null);
    with(&[]).expect("a model of one piece");
    for (more, part) in [
        (bytes(2, &[0x18, 3]), "type 3"),
        (bytes(2, &[0xc0, 1, 1]), "treat_whitespace_as_suffix"),
        (bytes(3, &[0x28, 0]), "escape_whitespaces"),
        (bytes(5, &bytes(2, b"map")), "denormalizer_spec"),
        (bytes(1, &[&bytes(1, b"old")[..], &[0x18, 5]].concat()), "unused pieces such as `old`"),
        (bytes(1, &[&bytes(1, b"x")[..], &[0x18, 9]].concat()), "unknown type 9"),
        (bytes(1, &bytes(1, &[0xff])), "UTF-8"),
        (vec![0x0a, 99], "damaged"),
        ([bytes(2, &[0x18, 2]), bytes(1, &bytes(1, b"a")), bytes(1, &bytes(1, b"a"))].concat(), "twice"),
    ] {
        let message = with(&more).expect_err(part);
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(as_json(&[], &Value::Null).expect_err("nothing").contains("no pieces"));
    assert!(as_json(&bytes(1, &bytes(1, b"a")), &Value::Null).expect_err("no unknown").contains("unknown characters"));
    let settings = |decoder: Value| json!({"added_tokens_decoder": decoder});
    for (settings, part) in [
        (settings(json!({"x": {"content": "a"}})), "no id"),
        (settings(json!({"7": {"content": "a"}})), "expected a token 1"),
        (settings(json!({"1": {}})), "no content"),
        (json!({"bos_token": "<none>"}), "`<none>` is no token"),
    ] {
        let message = as_json(&unknown, &settings).expect_err(part);
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// Every cut and every changed byte gives a tokenizer or a reason, never a panic.
#[test]
fn damaged_models_are_refused() {
    let whole = model("bpe-user-defined");
    for end in (0..whole.len()).step_by(97) {
        let _ = as_json(&whole[..end], &Value::Null);
    }
    for at in (0..whole.len()).step_by(61) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        let _ = as_json(&changed, &Value::Null);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.model");
    let failure = || Vocabulary::of_folder(folder.path(), &Value::Null).expect_err("no tokenizer").to_string();
    assert!(failure().contains("no tokenizer.json and no tokenizer.model"));
    std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1\n").expect("written");
    assert!(failure().contains("git lfs pull"));
    std::fs::write(&path, b"\x0a\xff").expect("written");
    let message = failure();
    assert!(message.contains("tokenizer.model") && message.contains("save_pretrained"), "{message}");
}
