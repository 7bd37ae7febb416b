//! The shipped model answers questions outside its training data.

use std::path::Path;

use candle_coreml::description::{FeatureType, ShapeConstraint};
use candle_coreml::generation::{Message, Options, StopReason};
use candle_coreml::{EngineChoice, QwenConfig, QwenModel};

#[path = "shipped_model/choices.rs"]
mod choices;
mod engines;

#[derive(serde::Deserialize)]
struct Question {
    question: String,
    answer: String,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn model() -> QwenModel {
    QwenModel::load_from_directory(folder(), Some(engines::config())).expect("the shipped model loads")
}

fn ask(model: &mut QwenModel, messages: &[Message]) -> String {
    let options = Options { max_tokens: 48, ..Options::default() };
    let mut streamed = String::new();
    let summary = model.chat(messages, options, |step| streamed.push_str(&step.text)).expect("an answer");
    assert_eq!(streamed, summary.text, "the pieces are the text");
    summary.text.trim().to_owned()
}

#[test]
fn held_out_questions_are_answered_right() {
    let text = std::fs::read_to_string(folder().join("heldout.jsonl")).expect("questions");
    let questions: Vec<Question> = text.lines().map(|l| serde_json::from_str(l).expect("a question")).collect();
    assert!(questions.len() >= 400);
    let mut model = model();
    let right = questions.iter().filter(|q| ask(&mut model, &[Message::user(&q.question)]) == q.answer).count();
    let share = right as f64 / questions.len() as f64;
    println!("{right} of {} right", questions.len());
    assert!(share >= 0.95, "{right} of {} right", questions.len());
}

#[test]
fn guesses_from_the_prompt_change_no_logit_and_save_steps() {
    let mut model = model();
    let (mut saved, mut ran) = (0, 0);
    for question in ["Spell \"tiger\" backwards.", "What is the capital of Japan?", "Who are you?", "What is 12 + 30?"]
    {
        let answer = ask(&mut model, &[Message::user(question)]);
        // Asked again, it says what is in the prompt.
        let messages = [Message::user(question), Message::assistant(answer), Message::user(question)];
        let prompt = model.chat_text(&messages).expect("a template");
        let prompt = model.tokenize(&prompt).expect("ids");
        let mut run = |lookup: usize, max_tokens: usize| {
            let mut logits = Vec::new();
            let options = Options { lookup, max_tokens, ..Options::default() };
            let push = |step: &candle_coreml::generation::Step| {
                logits.push(step.logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>());
            };
            let summary = model.generate_tokens(&prompt, options, push).expect("text");
            ((summary.tokens, summary.text, summary.stop_reason, logits), summary.decode_steps)
        };
        for max_tokens in [1, 3, 48] {
            let (alone, steps) = run(0, max_tokens);
            for lookup in [1, 2, 5] {
                let (guessed, fewer) = run(lookup, max_tokens);
                assert!(guessed == alone, "{question}: {} guesses, {max_tokens} tokens", lookup);
                assert!(fewer <= steps, "{fewer} of {steps} steps");
                (saved, ran) = (saved + steps - fewer, ran + steps);
            }
        }
    }
    println!("{saved} of {ran} steps saved");
    // Models on Core ML take one token at a time.
    assert!(saved > 0 || cfg!(target_vendor = "apple"), "no step was saved");
}

#[test]
fn a_conversation_goes_on_over_a_full_window() {
    let mut model = model();
    let mut messages = Vec::new();
    let questions = [("What is the capital of France?", "Paris"), ("Spell \"tiger\" backwards.", "regit")];
    for (question, answer) in questions {
        messages.push(Message::user(question));
        let got = ask(&mut model, &messages);
        assert_eq!(got, answer);
        messages.push(Message::assistant(got));
    }
    // Far more tokens than the context of 256.
    let options = Options { max_tokens: 400, force: (0..400).map(|i| 40 + i % 50).collect(), ..Options::default() };
    let summary = model.chat(&[Message::user("Hello!")], options, |_| {}).expect("it slides");
    assert_eq!(summary.tokens.len(), 401);
}

#[test]
fn generation_stops_where_it_is_told_to() {
    let mut model = model();
    let prompt = model.chat_text(&[Message::user("What is the capital of Japan?")]).expect("a template");
    let prompt = model.tokenize(&prompt).expect("ids");
    let mut run = |options: Options| model.generate_tokens(&prompt, options, |_| {}).expect("text");
    let all = run(Options::default());
    assert_eq!((all.text.as_str(), all.stop_reason), ("Tokyo", StopReason::EndOfText));
    let few = run(Options { max_tokens: 2, ..Options::default() });
    assert_eq!((few.text.as_str(), few.stop_reason), ("To", StopReason::MaxTokens));
    let stopped = run(Options { stop: vec!["ky".to_owned()], ..Options::default() });
    assert_eq!((stopped.text.as_str(), stopped.stop_reason), ("To", StopReason::StopText));
    let cancelled = Options::default();
    cancelled.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(run(cancelled).stop_reason, StopReason::Cancelled);
    let none = run(Options { max_tokens: 0, ..Options::default() });
    assert!(none.tokens.is_empty());
}

#[test]
fn sampling_with_a_seed_repeats_itself() {
    let mut model = model();
    let mut text = |seed| {
        let sampling = candle_coreml::generation::Sampling { temperature: 1.5, seed, ..Default::default() };
        let options = Options { max_tokens: 20, sampling, ..Options::default() };
        model.chat(&[Message::user("Hello!")], options, |_| {}).expect("text").tokens
    };
    assert_eq!(text(1), text(1));
}

/// Copies the model, for a test to corrupt.
fn copy(to: &Path) {
    fn tree(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                tree(&entry.path(), &target)
            } else {
                std::fs::copy(entry.path(), target).map(|_| ()).expect("a copy");
            }
        }
    }
    tree(&folder(), to);
}

/// The portable engine's error for a broken model: Core ML's texts differ.
fn failure(path: &Path) -> String {
    let config = QwenConfig { engine: EngineChoice::Portable, ..QwenConfig::default() };
    QwenModel::load_from_directory(path, Some(config)).expect_err("broken").to_string()
}

#[test]
fn components_are_found_without_their_names_and_missed_when_gone() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("m");
    copy(&path);
    std::fs::remove_file(path.join("meta.yaml")).expect("removed");
    std::fs::rename(path.join("qwen_embeddings.mlpackage"), path.join("a.mlpackage")).expect("renamed");
    std::fs::rename(path.join("qwen_lm_head_lut8.mlpackage"), path.join("b.mlpackage")).expect("renamed");
    for chunk in ["1", "2"] {
        let from = format!("qwen_FFN_PF_lut6_chunk_0{chunk}of02.mlpackage");
        // File names contradict the order: the converter's metadata numbers them.
        let to = if chunk == "1" { "z.mlpackage" } else { "c.mlpackage" };
        std::fs::rename(path.join(from), path.join(to)).expect("renamed");
    }
    let mut model = QwenModel::load_from_directory(&path, Some(engines::config())).expect("found by content");
    assert_eq!(ask(&mut model, &[Message::user("What is the capital of Japan?")]), "Tokyo");
    std::fs::remove_dir_all(path.join("z.mlpackage")).expect("removed");
    assert!(failure(&path).contains("chunk 1 of 2 is missing"), "{}", failure(&path));
    std::fs::remove_dir_all(path.join("b.mlpackage")).expect("removed");
    assert!(failure(&path).contains("LM head"), "{}", failure(&path));
}

#[test]
fn damaged_weights_are_named() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("m");
    copy(&path);
    let weights = path.join("qwen_lm_head_lut8.mlpackage/Data/com.apple.CoreML/weights/weight.bin");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    let message = failure(&path);
    assert!(message.contains("weight.bin") && message.contains("inside the file"), "{message}");
    std::fs::remove_file(&weights).expect("removed");
    assert!(failure(&path).contains("weight.bin"), "{}", failure(&path));
    let nowhere = scratch.path().join("nowhere");
    assert!(failure(&nowhere).contains("nowhere"));
}

#[test]
fn a_prompt_can_be_watched_and_left_between_its_batches() {
    let model = model();
    let pipeline = model.pipeline();
    let ids: Vec<u32> = (0..150).map(|i| 40 + i * 7 % 90).collect();
    let mut whole = pipeline.session().expect("a session");
    let expected = pipeline.forward(&mut whole, &ids).expect("logits");
    let (mut session, mut seen) = (pipeline.session().expect("a session"), Vec::new());
    let mut first = |n| {
        seen.push(n);
        false
    };
    assert!(pipeline.forward_chunked(&mut session, &ids, &mut first).expect("no failure").is_none());
    let [first] = seen[..] else { panic!("asked once, not {seen:?}") };
    assert!((2..ids.len() - 1).contains(&first) && session.tokens() == &ids[..first], "the first batch of {first}");
    let mut counts = Vec::new();
    let mut all = |n| {
        counts.push(n);
        true
    };
    let logits = pipeline.forward_chunked(&mut session, &ids[first..], &mut all).expect("no failure").expect("logits");
    assert_eq!(session.tokens(), ids);
    assert!(counts.is_sorted() && counts.last() == Some(&(ids.len() - first)), "{counts:?}");
    // The same batches as in one call: the same arithmetic.
    let off = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{off}");
    let error = pipeline.forward_chunked(&mut session, &[], &mut |_| true).expect_err("nothing to run").to_string();
    assert!(error.contains("the prompt is empty"), "{error}");
}

/// Maximum difference between two vectors of logits.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn prompts_of_any_length_leave_the_cache_of_single_steps() {
    let model = model();
    let pipeline = model.pipeline();
    let prefill = pipeline.functions().last().expect("a prefill function");
    let hidden = prefill.function_description().input("hidden_states").expect("an input");
    let open = matches!(&hidden.ty, FeatureType::MultiArray { constraint: ShapeConstraint::Ranges(_), .. });
    assert_eq!(open, pipeline.engine() == "portable", "the portable engine takes the tokens that there are");
    let ids: Vec<u32> = (0..90).map(|i| 40 + i * 7 % 90).collect();
    let mut steps = pipeline.session().expect("a session");
    // The prediction after each prefix, token by token.
    let wanted: Vec<Vec<f32>> = ids.iter().map(|&id| pipeline.forward(&mut steps, &[id]).expect("logits")).collect();
    for n in (1..20).chain([31, 32, 33, 63, 64, 65, 66, 70, 90]) {
        let mut session = pipeline.session().expect("a session");
        let logits = pipeline.forward(&mut session, &ids[..n]).expect("logits");
        let off = distance(&logits, &wanted[n - 1]);
        assert!(off < 0.05, "{n} tokens: off by {off}");
    }
    // A second prompt continues where the first one ends, at any position.
    for first in [1, 5, 17, 40] {
        let mut session = pipeline.session().expect("a session");
        pipeline.forward(&mut session, &ids[..first]).expect("logits");
        let off = distance(&pipeline.forward(&mut session, &ids[first..]).expect("logits"), &wanted[ids.len() - 1]);
        assert!(off < 0.05, "after {first} tokens: off by {off}");
    }
}
