//! Checkpoints on Candle against logits from transformers (`tools/candle_reference.py`).
#![cfg(feature = "candle-models")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_coreml::backend::{
    BackendConfig, BackendDevice, CandleGenerator, CandleOptions, Stage, TextGeneration, open,
};
use candle_coreml::generation::{Message, Options};

/// Absolute tolerance on logits whose standard deviation is above 1, both sides in f32.
const TOLERANCE: f32 = 1e-3;

const ALL: [&str; 12] = [
    "qwen2.5-shards-f32",
    "qwen3-tied-bf16",
    "llama-rope3-f16",
    "mistral-f16",
    "gemma2-f16",
    "gemma3-rotating-f16",
    "gemma3-heads-f16",
    "phi3-partial-f16",
    "smollm3-bf16",
    "qwen3-moe-f16",
    "granite-factors-f16",
    "olmo2-f16",
];

/// Their windows are shorter than a conversation: once they have rotated, there is nothing to go back to.
const ROTATING: &str = "gemma3-rotating-f16";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/checkpoints").join(name)
}

fn load(name: &str) -> CandleGenerator {
    CandleGenerator::load(folder(name), BackendDevice::Cpu, &CandleOptions::default()).expect("it loads")
}

/// Token ids, and the logits after each.
fn reference(name: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let all = candle_core::safetensors::load(folder(name).join("reference.safetensors"), &Device::Cpu).expect("a file");
    let ids = all["ids"].to_dtype(DType::U32).and_then(|t| t.to_vec1()).expect("ids");
    (ids, all["logits"].to_vec2().expect("logits"))
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

#[test]
fn logits_are_those_of_transformers_however_the_tokens_are_fed() {
    for name in ALL {
        let (ids, logits) = reference(name);
        // At once, in chunks, one by one: all end at the same positions.
        for parts in [vec![ids.len()], vec![20, 1, 7, 20], vec![1; ids.len()]] {
            let mut model = load(name);
            let mut at = 0;
            for part in parts {
                let got = model.forward(&ids[at..at + part]).expect("logits");
                at += part;
                let off = distance(&got, &logits[at - 1]);
                assert!(off < TOLERANCE, "{name}: after {at} tokens fed by {part}: {off}");
            }
            assert_eq!(at, ids.len());
        }
    }
}

#[test]
fn half_types_stay_near_the_reference() {
    // bf16 has 8 significant bits: 2^-8 relative on values up to 4, through two layers.
    for (name, dtype, tolerance) in [("qwen3-tied-bf16", DType::BF16, 0.25), ("llama-rope3-f16", DType::F16, 0.03)] {
        let options = CandleOptions { dtype: Some(dtype), ..CandleOptions::default() };
        let mut model = CandleGenerator::load(folder(name), BackendDevice::Cpu, &options).expect("it loads");
        assert_eq!(model.info().dtype, dtype.as_str());
        let (ids, logits) = reference(name);
        let off = distance(&model.forward(&ids).expect("logits"), &logits[ids.len() - 1]);
        assert!(off < tolerance, "{name} in {dtype:?}: {off}");
    }
}

#[test]
fn going_back_gives_the_same_answers_as_a_fresh_model() {
    for name in ALL {
        let mut model = load(name);
        let options = || Options { max_tokens: 12, ..Options::default() };
        let mut messages = vec![Message::user("Tell me about the sea, the sky, the land.")];
        let first = model.chat(&messages, options(), &mut |_| {}).expect("an answer");
        let held = model.stats().context_used;
        // The conversation continues differently from the cache: rewind to before the answer.
        messages.push(Message::assistant("Something else."));
        messages.push(Message::user("And?"));
        let second = model.chat(&messages, options(), &mut |_| {}).expect("an answer");
        let turn = model.stats().last.expect("a turn");
        let kept = turn.prefilled_tokens < turn.prompt_tokens;
        assert_eq!(kept, !name.starts_with("gemma3"), "{name}: of {held} tokens: {turn:?}");
        assert_eq!(load(name).chat(&messages, options(), &mut |_| {}).expect("an answer").tokens, second.tokens);
        // An unrelated prompt: restart from zero.
        let again = model.chat(&messages[..1], options(), &mut |_| {}).expect("an answer");
        assert_eq!(again.tokens, first.tokens, "{name}");
    }
}

#[test]
fn the_context_ends_with_a_window_that_the_network_lacks() {
    for (name, context) in [("gemma2-f16", 127), ("phi3-partial-f16", 127), (ROTATING, 128), ("mistral-f16", 128)] {
        assert_eq!(load(name).info().context, context, "{name}");
    }
}

#[test]
fn within_its_window_a_rotating_cache_goes_back() {
    let (ids, logits) = reference(ROTATING);
    let shared = load(ROTATING).share().expect("checkpoints can be shared");
    let mut one = shared.conversation().expect("a conversation");
    // The snapshot stands 16 tokens before the end: none is taken in a window of 16, and all is run again.
    one.forward(&ids[..12]).expect("logits");
    assert_eq!(one.truncate(6), 0);
    one.forward(&ids[..30]).expect("logits");
    assert_eq!(one.truncate(20), 0);
    let off = distance(&one.forward(&ids).expect("logits"), &logits[ids.len() - 1]);
    assert!(off < TOLERANCE, "{off}");
}

#[test]
fn a_full_context_slides_or_ends_and_is_never_exceeded() {
    let options = CandleOptions { context: 40, ..CandleOptions::default() };
    let mut model = CandleGenerator::load(folder(ALL[1]), BackendDevice::Cpu, &options).expect("it loads");
    assert_eq!(model.info().context, 40);
    let forced: Vec<u32> = (0..100).map(|i| 40 + i % 50).collect();
    let slide = Options { force: forced.clone(), ..Options::default() };
    let summary = model.stream("abc", slide, &mut |_| {}).expect("it slides");
    assert_eq!(summary.tokens.len(), 101);
    assert!(model.stats().context_used <= 40);
    model.reset();
    let stop = Options { force: forced, slide: false, ..Options::default() };
    let summary = model.stream("abc", stop, &mut |_| {}).expect("it ends");
    assert_eq!(summary.stop_reason, candle_coreml::generation::StopReason::WindowFull);
    let error = model.forward(&[1; 41]).expect_err("too many").to_string();
    assert!(error.contains("context of 40"), "{error}");
    assert!(model.forward(&[272]).expect_err("no such token").to_string().contains("272"));
    assert!(model.forward(&[]).is_err());
    let tiny = CandleOptions { context: 1, ..CandleOptions::default() };
    assert!(CandleGenerator::load(folder(ALL[1]), BackendDevice::Cpu, &tiny).is_err());
}

#[test]
fn auto_finds_the_device_for_a_checkpoint_and_says_why_not_core_ml() {
    let config = BackendConfig { model_path: Some(folder(ALL[0])), ..BackendConfig::default() };
    let generator = open(&config).expect("it opens");
    let first = &generator.history()[0];
    assert_eq!((first.device, first.stage), (BackendDevice::CoreML, Stage::Load));
    assert_eq!(generator.info().engine, "candle");
    let only = BackendConfig { device: BackendDevice::CoreML, ..config };
    assert!(open(&only).is_err(), "no other device was allowed");
    for device in [BackendDevice::CoreML, BackendDevice::Auto] {
        let error = CandleGenerator::load(folder(ALL[0]), device, &CandleOptions::default()).expect_err("no device");
        assert!(error.to_string().contains("cpu, metal or cuda"), "{error}");
    }
}

#[test]
fn weights_that_were_converted_to_core_ml_give_the_same_greedy_text() {
    // Made by `python -m tools.convert --context 64 --batch 8 --chunks 1 --split-head 1`; fp16, as Core ML stores them.
    for name in ["qwen3-tied-bf16", "qwen2.5-shards-f32"] {
        let converted = folder("../converted").join(name);
        let config = BackendConfig {
            device: BackendDevice::CoreML,
            model_path: Some(converted),
            fallback_chain: Vec::new(),
            ..BackendConfig::default()
        };
        let mut packages = open(&config).expect("the packages open");
        assert_eq!(packages.info().device, BackendDevice::CoreML);
        for prompt in ["abc", "The sea, the sky and the land between them", "1 2 3 4"] {
            // Random weights: later near-ties depend on the fp16 rounding of one side's weights.
            let options = || Options { max_tokens: 12, ..Options::default() };
            let checkpoint = load(name).stream(prompt, options(), &mut |_| {}).expect("an answer");
            packages.reset();
            let summary = packages.stream(prompt, options(), &mut |_| {}).expect("an answer");
            assert!(checkpoint.tokens.len() > 1, "{name}: {prompt:?} is continued");
            assert_eq!((summary.tokens, summary.text), (checkpoint.tokens, checkpoint.text), "{name}: {prompt:?}");
        }
    }
}

/// A checkpoint for a test to corrupt.
fn copy(name: &str) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder(name)).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a copy");
    }
    to
}

fn failure(folder: &Path) -> String {
    let options = CandleOptions::default();
    CandleGenerator::load(folder, BackendDevice::Cpu, &options).expect_err("broken").to_string()
}

#[test]
fn broken_checkpoints_are_refused_by_name() {
    let replace = |folder: &Path, file: &str, from: &str, to: &str| {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(path, text.replace(from, to)).expect("written");
    };
    let index = "model.safetensors.index.json";
    for (name, file, from, to, part) in [
        (ALL[0], "config.json", "\"qwen2\"", "\"gpt2\"", "gpt2"),
        (ALL[0], "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "3 layers"),
        (ALL[0], "config.json", "\"hidden_size\": 64", "\"hidden_size\": 128", "model.embed_tokens.weight"),
        (ALL[0], "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "num_attention_heads"),
        (ALL[1], "config.json", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight"),
        (ALL[1], "config.json", "\"qwen3\"", "\"qwen2\"", "head_dim"),
        (ALL[0], index, "model-00001-of-00002.safetensors", "../../etc/passwd", "not a file beside it"),
        (ALL[0], index, "model-00001-of-00002.safetensors", "gone.safetensors", "gone.safetensors"),
        (ALL[0], index, "weight_map", "weights", "weight_map"),
    ] {
        let folder = copy(name);
        replace(folder.path(), file, from, to);
        let message = failure(folder.path());
        assert!(message.contains(part), "{file} with {to}: {message}");
    }
}

#[test]
fn where_the_head_is_tied_a_stored_one_is_left_out() {
    let folder = copy(ALL[0]);
    let path = |name: &str| folder.path().join(name);
    let config = std::fs::read_to_string(path("config.json")).expect("text");
    let tied = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_ne!(config, tied);
    std::fs::write(path("config.json"), tied).expect("written");
    let logits = || {
        let options = CandleOptions::default();
        let mut model = CandleGenerator::load(folder.path(), BackendDevice::Cpu, &options).expect("it loads");
        model.forward(&[1, 2, 3]).expect("logits")
    };
    let with = logits();
    let mut weights = std::collections::HashMap::new();
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        weights.extend(candle_core::safetensors::load(path(shard), &Device::Cpu).expect("a shard"));
    }
    assert!(weights.remove("lm_head.weight").is_some());
    candle_core::safetensors::save(&weights, path("model.safetensors")).expect("saved");
    std::fs::remove_file(path("model.safetensors.index.json")).expect("removed");
    assert!(distance(&with, &logits()) == 0.0);
}

#[test]
fn damaged_and_missing_files_are_refused() {
    let folder = copy(ALL[2]);
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    for length in [bytes.len() / 2, 9, 0] {
        std::fs::write(&weights, &bytes[..length]).expect("written");
        assert!(failure(folder.path()).contains("safetensors"), "{length} bytes");
    }
    // A header that claims more bytes than the file has.
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&weights, &huge).expect("written");
    assert!(failure(folder.path()).contains("safetensors"));
    std::fs::remove_file(&weights).expect("removed");
    std::fs::remove_file(folder.path().join("reference.safetensors")).expect("removed");
    assert!(failure(folder.path()).contains("download the weights too"));
    std::fs::remove_file(folder.path().join("config.json")).expect("removed");
    assert!(failure(folder.path()).contains("config.json"));
    let folder = copy(ALL[2]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).expect("removed");
    assert!(failure(folder.path()).contains("tokenizer.json"));
}

#[test]
fn conversations_share_the_weights_and_nothing_else() {
    for name in ALL {
        let (ids, logits) = reference(name);
        let model = load(name);
        let shared = model.share().expect("checkpoints can be shared");
        drop(model);
        let mut one = shared.conversation().expect("a conversation");
        let mut other = shared.conversation().expect("another");
        let (half, last) = (ids.len() / 2, ids.len() - 1);
        one.forward(&ids[..half]).expect("logits");
        // One conversation must not affect the other.
        other.forward(&ids[half..]).expect("logits");
        let off = distance(&one.forward(&ids[half..]).expect("logits"), &logits[last]);
        assert!(off < TOLERANCE, "{name}: {off}");
        assert_eq!((one.tokens(), other.tokens().len()), (&ids[..], ids.len() - half), "{name}");
        let on_a_thread = std::thread::spawn(move || {
            other.truncate(0);
            other.forward(&ids).expect("logits")
        });
        let off = distance(&on_a_thread.join().expect("no panic"), &logits[last]);
        assert!(off < TOLERANCE, "{name}: {off}");
        assert_eq!(shared.vocab(), logits[last].len(), "{name}");
    }
}
