//! Backend chains: which one answers, the reported reasons, and errors that never fall back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_coreml::backend::{
    Backend, BackendConfig, BackendDevice, CancelHandle, Fallback, FallbackGenerator, GeneratorInfo, Stage, Stats,
    TextGeneration, backends, open,
};
use candle_coreml::generation::{Message, Options, Step, StopReason, Summary};
use candle_coreml::{Error, Result};

/// Stage at which a fake backend fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fails {
    Never,
    Absent,
    AtLoad,
    /// At the start of request n (0-based).
    AtStart(usize),
    /// After two tokens.
    InTheMiddle,
    /// The request itself is invalid.
    TheRequest,
}

struct Fake {
    device: BackendDevice,
    fails: Fails,
    loads: Arc<AtomicUsize>,
}

struct FakeGenerator {
    device: BackendDevice,
    fails: Fails,
    requests: usize,
    cancel: CancelHandle,
}

impl Backend for Fake {
    fn device(&self) -> BackendDevice {
        self.device
    }

    fn absent(&self) -> Option<String> {
        (self.fails == Fails::Absent).then(|| "no such device here".to_owned())
    }

    fn load(&self) -> Result<Box<dyn TextGeneration>> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        if self.fails == Fails::AtLoad {
            return Err(Error::Unavailable("weights do not fit the memory".to_owned()));
        }
        let cancel = CancelHandle::default();
        Ok(Box::new(FakeGenerator { device: self.device, fails: self.fails, requests: 0, cancel }))
    }
}

impl FakeGenerator {
    fn answer(&mut self, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        let request = self.requests;
        self.requests += 1;
        if self.fails == Fails::AtStart(request) {
            return Err(Error::Unavailable("the kernel did not start".to_owned()));
        }
        if self.fails == Fails::TheRequest {
            return Err(Error::EmptyPrompt);
        }
        let name = self.device.name();
        let mut text = String::new();
        for (i, piece) in [name, " ", "says", " hello"].into_iter().enumerate() {
            if self.fails == Fails::InTheMiddle && i == 2 {
                return Err(Error::Unavailable("the device was lost".to_owned()));
            }
            text.push_str(piece);
            on_token(&Step { token: i as u32, text: piece.to_owned(), logits: Vec::new(), probabilities: None });
        }
        Ok(Summary {
            tokens: vec![0, 1, 2, 3],
            text,
            stop_reason: StopReason::EndOfText,
            prefill_tokens: 1,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
            decode_steps: 3,
            prompt_probabilities: Vec::new(),
            guessed: 0,
        })
    }
}

impl TextGeneration for FakeGenerator {
    fn info(&self) -> GeneratorInfo {
        GeneratorInfo { device: self.device, engine: "fake", model: PathBuf::new(), dtype: "f32", context: 8 }
    }

    fn stream(&mut self, _: &str, _: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.answer(on_token)
    }

    fn chat(&mut self, _: &[Message], _: Options, on_token: &mut dyn FnMut(&Step)) -> Result<Summary> {
        self.answer(on_token)
    }

    fn reset(&mut self) {}

    fn stats(&self) -> Stats {
        Stats { turns: self.requests, ..Stats::default() }
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    fn set_cancel_handle(&mut self, handle: CancelHandle) {
        self.cancel = handle;
    }
}

/// A chain of fakes, and the number of loads of each.
fn chain(all: &[(BackendDevice, Fails)]) -> (Vec<Box<dyn Backend>>, Vec<Arc<AtomicUsize>>) {
    all.iter()
        .map(|&(device, fails)| {
            let loads = Arc::new(AtomicUsize::new(0));
            (Box::new(Fake { device, fails, loads: loads.clone() }) as Box<dyn Backend>, loads)
        })
        .unzip()
}

fn stages(history: &[Fallback]) -> Vec<(BackendDevice, Stage)> {
    history.iter().map(|f| (f.device, f.stage)).collect()
}

use BackendDevice::{CoreML, Cpu, Cuda, Metal};

#[test]
fn the_first_that_works_answers_and_the_others_are_explained() {
    let all = [(CoreML, Fails::AtLoad), (Metal, Fails::Absent), (Cuda, Fails::AtStart(0)), (Cpu, Fails::Never)];
    let (backends, loads) = chain(&all);
    let mut generator = FallbackGenerator::new(backends).expect("one loads");
    assert_eq!(generator.info().device, Cuda);
    assert_eq!(loads[3].load(Ordering::Relaxed), 0, "what is not needed is not loaded");
    let mut streamed = String::new();
    let summary = generator.stream("x", Options::default(), &mut |s| streamed.push_str(&s.text)).expect("an answer");
    assert_eq!((summary.text.as_str(), streamed.as_str()), ("cpu says hello", "cpu says hello"));
    assert_eq!(stages(generator.history()), [(CoreML, Stage::Load), (Metal, Stage::Absent), (Cuda, Stage::FirstStep)]);
    let told: Vec<String> = generator.history().iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "coreml could not load the model: weights do not fit the memory");
    assert_eq!(told[1], "metal can't be had: no such device here");
    assert_eq!(told[2], "cuda failed at its first step: the kernel did not start");
    assert_eq!(loads[1].load(Ordering::Relaxed), 0, "what is absent is not loaded");
}

#[test]
fn a_failure_in_the_middle_is_an_error_and_no_restart() {
    let (backends, loads) = chain(&[(Cuda, Fails::InTheMiddle), (Cpu, Fails::Never)]);
    let mut generator = FallbackGenerator::new(backends).expect("one loads");
    let mut streamed = String::new();
    let error = generator.stream("x", Options::default(), &mut |s| streamed.push_str(&s.text)).expect_err("lost");
    assert!(error.to_string().contains("the device was lost"), "{error}");
    assert_eq!(streamed, "cuda ");
    assert!(generator.history().is_empty());
    assert_eq!(generator.info().device, Cuda);
    assert_eq!(loads[1].load(Ordering::Relaxed), 0);
}

#[test]
fn a_backend_that_has_worked_stays() {
    let (backends, _) = chain(&[(Cuda, Fails::AtStart(1)), (Cpu, Fails::Never)]);
    let mut generator = FallbackGenerator::new(backends).expect("one loads");
    assert_eq!(generator.generate("x", Options::default()).expect("the first works").text, "cuda says hello");
    assert!(generator.generate("x", Options::default()).is_err());
    assert!(generator.history().is_empty());
    assert_eq!(generator.generate("x", Options::default()).expect("the third works").text, "cuda says hello");
}

#[test]
fn a_wrong_request_is_no_reason_to_change_the_backend() {
    let (backends, loads) = chain(&[(Cuda, Fails::TheRequest), (Cpu, Fails::Never)]);
    let mut generator = FallbackGenerator::new(backends).expect("one loads");
    let error = generator.chat(&[], Options::default(), &mut |_| {}).expect_err("refused");
    assert!(matches!(error, Error::EmptyPrompt), "{error}");
    assert_eq!(loads[1].load(Ordering::Relaxed), 0);
}

#[test]
fn when_all_fail_every_reason_is_told() {
    let (backends, _) = chain(&[(CoreML, Fails::AtLoad), (Cpu, Fails::Absent)]);
    let message = FallbackGenerator::new(backends).expect_err("none").to_string();
    assert!(message.contains("coreml could not load") && message.contains("cpu can't be had"), "{message}");
    let (backends, _) = chain(&[(CoreML, Fails::AtStart(0)), (Cpu, Fails::AtStart(0))]);
    let mut generator = FallbackGenerator::new(backends).expect("both load");
    let error = generator.generate("x", Options::default()).expect_err("none answers");
    let Error::NoBackend { history } = &error else { panic!("{error}") };
    assert_eq!(stages(history), [(CoreML, Stage::FirstStep), (Cpu, Stage::FirstStep)]);
    let empty = FallbackGenerator::new(Vec::new()).expect_err("an empty chain");
    assert!(matches!(empty, Error::NoBackend { .. }));
}

#[test]
fn handles_outlive_a_change_of_the_backend() {
    let (backends, _) = chain(&[(Cuda, Fails::AtStart(0)), (Cpu, Fails::Never)]);
    let mut generator = FallbackGenerator::new(backends).expect("one loads");
    let handle = generator.cancel_handle();
    generator.generate("x", Options::default()).expect("the second answers");
    handle.cancel();
    assert!(generator.cancel_handle().is_cancelled());
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-qwen3")
}

fn question(text: &str) -> Vec<Message> {
    vec![Message::user(text)]
}

#[test]
fn the_shipped_model_opens_on_any_machine() {
    let config = BackendConfig { model_path: Some(shipped()), ..BackendConfig::default() };
    let mut generator = open(&config).expect("it opens");
    let info = generator.info();
    assert_eq!((info.device, info.context), (CoreML, 256));
    assert!(["portable", "native"].contains(&info.engine));
    let summary =
        generator.chat(&question("What is the capital of Japan?"), Options::default(), &mut |_| {}).expect("an answer");
    assert_eq!(summary.text, "Tokyo");
    let stats = generator.stats();
    assert_eq!((stats.turns, stats.generated_tokens), (1, summary.tokens.len()));
    assert!(stats.context_used > summary.tokens.len());
    generator.reset();
    assert_eq!(generator.stats().context_used, 0);
}

#[test]
fn a_second_turn_runs_only_what_is_new() {
    let config = BackendConfig { model_path: Some(shipped()), ..BackendConfig::default() };
    let mut generator = open(&config).expect("it opens");
    let mut messages = question("What is the capital of Japan?");
    let options = Options::default;
    let first = generator.chat(&messages, options(), &mut |_| {}).expect("an answer");
    let held = generator.stats().context_used;
    messages.push(Message::assistant(first.text));
    messages.push(Message::user("Spell \"tiger\" backwards."));
    let second = generator.chat(&messages, options(), &mut |_| {}).expect("an answer");
    assert_eq!(second.text, "regit");
    let turn = generator.stats().last.expect("a turn");
    assert_eq!(turn.prefilled_tokens, turn.prompt_tokens - held, "only what the cache did not hold");
}

#[test]
fn a_long_conversation_drops_its_oldest_messages_and_goes_on() {
    let config = BackendConfig { model_path: Some(shipped()), ..BackendConfig::default() };
    let mut generator = open(&config).expect("it opens");
    let mut messages = Vec::new();
    for _ in 0..12 {
        messages.push(Message::user("What is the capital of Japan?"));
        messages.push(Message::assistant("Tokyo"));
    }
    messages.push(Message::user("What is the capital of France?"));
    let summary = generator.chat(&messages, Options::default(), &mut |_| {}).expect("an answer");
    assert_eq!(summary.text, "Paris");
    let turn = generator.stats().last.expect("a turn");
    assert!(turn.dropped_messages > 0 && turn.dropped_messages.is_multiple_of(2), "{turn:?}");
    // A single message that is too long is rejected and changes nothing.
    let long = question(&"word ".repeat(600));
    let error = generator.chat(&long, Options::default(), &mut |_| {}).expect_err("too long");
    assert!(error.to_string().contains("context of 256"), "{error}");
    let again = generator.chat(&question("What is the capital of Japan?"), Options::default(), &mut |_| {});
    assert_eq!(again.expect("an answer").text, "Tokyo");
    assert!(generator.chat(&[], Options::default(), &mut |_| {}).is_err());
}

#[test]
fn a_handle_ends_one_answer_and_not_the_next() {
    let config = BackendConfig { model_path: Some(shipped()), ..BackendConfig::default() };
    let mut generator = open(&config).expect("it opens");
    let handle = generator.cancel_handle();
    let messages = question("What is the capital of Japan?");
    let mut seen = 0;
    let summary = generator
        .chat(&messages, Options::default(), &mut |_| {
            seen += 1;
            handle.cancel();
        })
        .expect("a part");
    assert_eq!((summary.stop_reason, seen), (StopReason::Cancelled, 1));
    let summary = generator.chat(&messages, Options::default(), &mut |_| {}).expect("an answer");
    assert_eq!(summary.text, "Tokyo");
}

#[test]
fn configurations_without_a_model_or_with_a_wrong_one_are_refused() {
    let none = open(&BackendConfig::default()).expect_err("no model").to_string();
    assert!(none.contains("no model"), "{none}");
    // Neither a folder nor a valid repository name: no network access.
    let repo = BackendConfig { model_repo: Some("nobody/nothing/at/all".to_owned()), ..BackendConfig::default() };
    let message = open(&repo).expect_err("no folder").to_string();
    assert!(message.contains("nobody/nothing/at/all"), "{message}");
    let folder = tempfile::tempdir().expect("a folder");
    let empty = BackendConfig { model_path: Some(folder.path().to_owned()), ..BackendConfig::default() };
    let message = open(&empty).expect_err("nothing there").to_string();
    assert!(message.ends_with("an empty folder") && !message.contains("metal"), "{message}");
}

#[test]
fn the_folder_is_asked_for_when_a_backend_has_its_turn() {
    let config = BackendConfig { fallback_chain: vec![Cpu], device: CoreML, ..BackendConfig::default() };
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = asked.clone();
    let generator = FallbackGenerator::new(backends(&config, move |device| {
        list.lock().expect("not poisoned").push(device);
        Ok(shipped())
    }));
    assert_eq!(generator.expect("Core ML loads").info().device, CoreML);
    assert_eq!(*asked.lock().expect("not poisoned"), [CoreML]);
}
