//! Embeddings of the shipped encoder against PyTorch's hidden states.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_coreml::Error;
use candle_coreml::encoder::{EncoderInput, Pooling, TextEncoder};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-intent")
}

fn text(text: &str) -> EncoderInput {
    EncoderInput::Text(text.to_owned())
}

/// Number of tokens of each row, and the unit vector of PyTorch's mean (or first) state, in f64.
fn expected(batch: &str, pooling: Pooling) -> Vec<(Vec<u32>, Vec<f64>)> {
    let all =
        candle_core::safetensors::load(folder().join("reference.safetensors"), &Device::Cpu).expect("a reference");
    let get = |name: &str| &all[&format!("{batch}.{name}")];
    let whole = |t: &Tensor| t.to_dtype(DType::I64).and_then(|t| t.to_vec2::<i64>()).expect("numbers");
    let states = get("hidden_states").to_dtype(DType::F64).and_then(|t| t.to_vec3::<f64>()).expect("numbers");
    let rows = whole(get("input_ids")).into_iter().zip(whole(get("attention_mask"))).zip(states);
    rows.map(|((ids, mask), states)| {
        let length = mask.iter().filter(|&&m| m == 1).count();
        let kept = if pooling == Pooling::First { 1 } else { length };
        let width = states[0].len();
        let mean: Vec<f64> =
            (0..width).map(|c| states[..kept].iter().map(|s| s[c]).sum::<f64>() / kept as f64).collect();
        let norm = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        (ids[..length].iter().map(|&i| i as u32).collect(), mean.into_iter().map(|v| v / norm).collect())
    })
    .collect()
}

fn compare(encoder: &TextEncoder, pooling: Pooling) {
    for batch in ["one", "four", "twelve"] {
        let expected = expected(batch, pooling);
        let rows: Vec<EncoderInput> = expected.iter().map(|(ids, _)| EncoderInput::Tokens(ids.clone())).collect();
        let found = encoder.embed(&rows).expect("vectors");
        assert_eq!(found.tokens, expected.iter().map(|(ids, _)| ids.len()).sum::<usize>());
        for ((_, expected), found) in expected.iter().zip(&found.vectors) {
            // Single states may differ by 2e-2; averaging and normalizing reduce the error.
            let worst = expected.iter().zip(found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
            assert!(worst < 5e-3, "{batch}: {worst}");
        }
    }
}

#[test]
fn vectors_are_the_pooled_states_of_pytorch() {
    let encoder = TextEncoder::load(folder()).expect("the shipped encoder");
    assert_eq!(encoder.output(), ("hidden_states", Some(Pooling::Mean)));
    assert_eq!((encoder.width(), encoder.limit()), (64, 48));
    compare(&encoder, Pooling::Mean);
}

#[test]
fn the_folder_may_ask_for_the_first_token() {
    let copy = tempfile::tempdir().expect("a folder");
    copy_all(&folder(), copy.path());
    std::fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    let config = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    std::fs::write(copy.path().join("1_Pooling/config.json"), config).expect("written");
    compare(&TextEncoder::load(copy.path()).expect("the same encoder"), Pooling::First);
}

#[test]
fn many_texts_of_all_lengths_keep_their_order_and_their_vectors() {
    let encoder = TextEncoder::load(folder()).expect("the shipped encoder");
    let texts: Vec<String> = (0..70).map(|i| format!("timer {}", "now ".repeat(i * 7 % 40))).collect();
    let together = encoder.embed(&texts.iter().map(|t| text(t)).collect::<Vec<_>>()).expect("vectors");
    assert_eq!(together.vectors.len(), 70);
    for i in [0, 1, 17, 40, 69] {
        let alone = encoder.embed(&[text(&texts[i])]).expect("a vector");
        let worst = alone.vectors[0].iter().zip(&together.vectors[i]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{i}: {worst}");
    }
    assert!(encoder.embed::<&str>(&[]).expect("nothing asked").vectors.is_empty());
}

#[test]
fn what_can_not_be_encoded_is_refused() {
    let encoder = TextEncoder::load(folder()).expect("the shipped encoder");
    let long = encoder.embed(&[text("fine"), text(&"word ".repeat(60))]).expect_err("too long");
    assert!(matches!(long, Error::PromptTooLong { context: 48, tokens } if tokens > 48), "{long}");
    let refused = |ids: Vec<u32>| encoder.embed(&[EncoderInput::Tokens(ids)]).expect_err("refused");
    assert!(matches!(refused(vec![]), Error::EmptyPrompt));
    for id in [600, u32::MAX] {
        assert!(matches!(refused(vec![id]), Error::UnknownToken { id: found, .. } if found == i64::from(id)));
    }
    let message = |folder: &Path| TextEncoder::load(folder).expect_err("no encoder").to_string();
    let language = folder().join("../tiny-qwen3");
    assert!(message(&language).contains("here are 4"), "{}", message(&language));
    // An invalid model, alone in a folder with a tokenizer.
    let package = "qwen_lm_head_lut8.mlpackage";
    let alone = tempfile::tempdir().expect("a folder");
    std::fs::copy(language.join("tokenizer.json"), alone.path().join("tokenizer.json")).expect("copied");
    std::fs::create_dir(alone.path().join(package)).expect("a folder");
    copy_all(&language.join(package), &alone.path().join(package));
    assert!(message(alone.path()).contains("found hidden_states"), "{}", message(alone.path()));
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).expect("a folder");
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
