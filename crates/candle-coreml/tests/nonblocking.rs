//! Async models: the same results, bounded queues, and cancellation of abandoned answers.
#![cfg(feature = "tokio")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::{Device, Tensor};
use candle_coreml::backend::{CoreMLGenerator, TextGeneration};
use candle_coreml::generation::{Message, Options, Sampling, StopReason, Summary};
use candle_coreml::nonblocking::{AsyncGenerator, AsyncModel, Capacity, Prompt, Watch};
use candle_coreml::{CoreMLModel, CoreMLModelWrapper, Error};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn generator() -> CoreMLGenerator {
    CoreMLGenerator::load(models().join("tiny-qwen3")).expect("the shipped model")
}

fn options(max_tokens: usize) -> Options {
    Options { max_tokens, slide: false, ..Options::default() }
}

/// A prompt whose answer ends only at the token limit: end tokens are never likely after it.
fn endless() -> (Prompt, Options) {
    let options = Options { force: vec![65; 200], ..options(200) };
    (Prompt::Text("2 + 2 =".to_owned()), options)
}

#[derive(Default)]
struct Count {
    tokens: AtomicUsize,
    cancelled: AtomicUsize,
    ended: AtomicUsize,
}

impl Watch for Count {
    fn first_token(&self, _: Duration) {
        self.tokens.fetch_add(1, Ordering::SeqCst);
    }

    fn next_token(&self, _: Duration) {
        self.tokens.fetch_add(1, Ordering::SeqCst);
    }

    fn ended(&self, end: &candle_coreml::Result<Summary>) {
        if end.as_ref().is_ok_and(|s| s.stop_reason == StopReason::Cancelled) {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

fn watched(capacity: Capacity) -> (AsyncGenerator, Arc<Count>) {
    let count = Arc::new(Count::default());
    (AsyncGenerator::watched(generator(), capacity, count.clone()).expect("it can be shared"), count)
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_the_blocking_interface() {
    let model = AsyncGenerator::new(generator(), Capacity { slots: 2, ..Capacity::default() }).expect("shared");
    let mut blocking = generator();
    let messages = vec![Message::user("What is the capital of Peru?")];
    let expected = blocking.chat(&messages, options(20), &mut |_| {}).expect("an answer");
    assert_eq!(expected.text, "Lima");
    let mut answer = model.stream(Prompt::Chat(messages), options(20)).await.expect("accepted");
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Some(piece) = answer.next().await {
        let piece = piece.expect("a piece");
        text.push_str(&piece.text);
        tokens.extend(piece.token);
    }
    assert_eq!((text.as_str(), &tokens), (expected.text.as_str(), &expected.tokens));
    let summary = answer.summary().expect("the end");
    assert_eq!((&summary.text, summary.stop_reason), (&expected.text, expected.stop_reason));
    assert_eq!((answer.prompt_tokens(), answer.cached_tokens()), (expected.prefill_tokens, 0));
    assert!(answer.next().await.is_none(), "the end stays the end");

    // Text held back as a possible prefix of a stop text is released once it can't match.
    let held = Options { stop: vec!["max".to_owned()], ..options(20) };
    let messages = vec![Message::user("What is the capital of Peru?")];
    let done = model.generate(Prompt::Chat(messages), held).await.expect("an answer");
    assert_eq!(done.summary.text, "Lima");
    assert_eq!(done.cached_tokens, done.prompt_tokens - 1, "all but the token whose logits are wanted");

    let sampling = Sampling { temperature: 1.5, seed: 5, ..Sampling::default() };
    let random = Options { sampling, ..options(12) };
    let expected = blocking.generate("Once", random.clone()).expect("a text").text;
    let found = model.generate(Prompt::Text("Once".to_owned()), random).await.expect("a text");
    assert_eq!(found.summary.text, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_conversations_keep_their_caches() {
    let (model, _) = watched(Capacity { slots: 2, ..Capacity::default() });
    let mut alone = [generator(), generator()];
    let mut talks: [Vec<Message>; 2] = Default::default();
    let mut before = [0, 0];
    for questions in
        [["What is 3 + 4?", "Capital of Greece?"], ["And 5 + 6?", "Capital of Peru?"], ["7 + 1 =", "9 - 2 ="]]
    {
        for (i, question) in questions.into_iter().enumerate() {
            talks[i].push(Message::user(question));
            let expected = alone[i].chat(&talks[i], options(24), &mut |_| {}).expect("an answer").text;
            let done = model.generate(Prompt::Chat(talks[i].clone()), options(24)).await.expect("an answer");
            assert_eq!(done.summary.text, expected, "{question}");
            assert!(done.cached_tokens >= before[i], "{question}: {done:?}");
            before[i] = done.prompt_tokens;
            talks[i].push(Message::assistant(done.summary.text));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_holds_the_computation_back_and_its_absence_ends_it() {
    let (model, count) = watched(Capacity { slots: 1, queue: 1, buffer: 1 });
    let (prompt, options) = endless();
    let mut answer = model.stream(prompt.clone(), options.clone()).await.expect("accepted");
    for read in 0..5 {
        // One token is being computed, one waits to be sent, one is buffered.
        assert!(count.tokens.load(Ordering::SeqCst) <= read + 3);
        answer.next().await.expect("not the end").expect("a piece");
    }
    // Until it is read, the only slot is taken, and the queue holds one request.
    let waiting = {
        let (model, prompt, options) = (model.clone(), prompt.clone(), options.clone());
        tokio::spawn(async move { model.generate(prompt, options).await })
    };
    until(|| model.waiting() == 1).await;
    let busy = model.stream(prompt, options).await.expect_err("one too many");
    assert!(matches!(busy, Error::Busy { limit: 1 }), "{busy}");
    drop(answer);
    let done = waiting.await.expect("no panic").expect("its turn came");
    assert_eq!(done.summary.tokens.len(), 201);
    until(|| count.ended.load(Ordering::SeqCst) == 2).await;
    assert_eq!(count.cancelled.load(Ordering::SeqCst), 1, "the answer that was dropped");
    assert_eq!((model.waiting(), model.running()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_fits_the_buffer_needs_no_reader() {
    let (model, _) = watched(Capacity { slots: 1, queue: 1, buffer: 300 });
    let (prompt, options) = endless();
    let mut unread = model.stream(prompt.clone(), options.clone()).await.expect("accepted");
    let other = model.generate(prompt, options).await.expect("the slot was given back");
    let mut pieces = 0;
    while let Some(piece) = unread.next().await {
        pieces += usize::from(piece.expect("a piece").token.is_some());
    }
    assert_eq!(pieces, other.summary.tokens.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_that_do_not_fit_are_refused_before_anything_runs() {
    let (model, count) = watched(Capacity::default());
    let ask = async |prompt: Prompt| model.stream(prompt, options(4)).await.expect_err("refused");
    assert!(matches!(ask(Prompt::Tokens(vec![65; 257])).await, Error::PromptTooLong { tokens: 257, context: 256 }));
    assert!(matches!(ask(Prompt::Tokens(Vec::new())).await, Error::EmptyPrompt));
    assert!(matches!(ask(Prompt::Tokens(vec![272])).await, Error::UnknownToken { id: 272, .. }));
    assert!(matches!(ask(Prompt::Chat(Vec::new())).await, Error::NoMessages));
    assert_eq!(count.ended.load(Ordering::SeqCst), 0);
    // Exactly the context: after one more token the context is full.
    let full = model.generate(Prompt::Tokens(vec![65; 256]), Options { force: vec![65; 9], ..options(9) }).await;
    let full = full.expect("it fits").summary;
    assert_eq!((full.tokens.len(), full.stop_reason), (1, StopReason::WindowFull));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_models_predict_without_blocking() {
    let path = models().join("tiny-intent/intent.mlpackage");
    let model = CoreMLModel::load(path).expect("the shipped encoder");
    let ids = Tensor::new(&[[2i64, 40, 41, 3]], &Device::Cpu).expect("ids");
    let mask = ids.ones_like().expect("a mask");
    let expected = model.forward(&[&ids, &mask]).and_then(|t| Ok(t.to_vec2::<f32>()?)).expect("logits");
    let model = AsyncModel::new(model, Capacity { slots: 2, ..Capacity::default() });
    let found = futures(8, || model.forward(vec![ids.clone(), mask.clone()])).await;
    for tensor in found {
        assert_eq!(tensor.expect("logits").to_vec2::<f32>().expect("values"), expected);
    }
    let all = model.forward_all(vec![ids.clone(), mask.clone()]).await.expect("outputs");
    assert!(all.contains_key("hidden_states"));
    let named = vec![("input_ids".to_owned(), ids.clone()), ("attention_mask".to_owned(), mask)];
    assert_eq!(model.predict(named).await.expect("outputs").len(), 2);
    let wrong = model.predict(vec![("x".to_owned(), ids)]).await.expect_err("no such input");
    assert!(matches!(wrong, Error::NotFound { .. }), "{wrong}");
    let lost = model.run(|_| -> candle_coreml::Result<()> { panic!("on purpose") }).await.expect_err("a panic");
    assert!(matches!(lost, Error::Aborted(_)), "{lost}");
    assert_eq!((model.waiting(), model.running()), (0, 0), "a panic keeps no slot");
}

/// Runs calls concurrently.
async fn futures<F>(count: usize, call: impl Fn() -> F) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send,
{
    let mut running: Vec<_> = (0..count).map(|_| Box::pin(call())).collect();
    let mut done: Vec<Option<F::Output>> = (0..count).map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in running.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_and_students_go_to_their_thread_and_back() {
    let folder = models().join("tiny-qwen3");
    let chunk = folder.join("qwen_FFN_PF_lut6_chunk_01of02.mlpackage");
    let chunk = CoreMLModel::builder(chunk).function("infer").load().expect("a chunk");
    let names = chunk.input_names();
    let inputs: Vec<Tensor> = names
        .iter()
        .map(|name| match name.as_str() {
            "hidden_states" => Tensor::ones((1, 1, 192), candle_core::DType::F32, &Device::Cpu),
            "causal_mask" => Ok(candle_coreml::anemll::causal_mask(0, 1, 256)?),
            _ => Tensor::zeros(1, candle_core::DType::I64, &Device::Cpu),
        })
        .collect::<candle_core::Result<_>>()
        .expect("inputs");
    let mut state = chunk.make_state().expect("a state");
    let expected = chunk.predict_with_state(&inputs, &mut state).expect("states");
    let name = state.names()[0].to_owned();
    let written = state.get(&name).expect("a cache");
    let fresh = chunk.make_state().expect("a state");
    let (found, fresh) =
        AsyncModel::new(chunk, Capacity::default()).predict_with_state(inputs, fresh).await.expect("ok");
    let values = |t: &Tensor| {
        t.flatten_all().and_then(|t| t.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()).expect("values")
    };
    assert_eq!(values(&found), values(&expected));
    assert_eq!(values(&fresh.get(&name).expect("a cache")), values(&written));

    let student = CoreMLModelWrapper::load(&folder, 272, 256).expect("the model");
    let ids = Tensor::new(&[[5u32, 60, 7], [8, 9, 10]], &Device::Cpu).expect("ids");
    let expected = values(&student.forward(&ids).expect("logits"));
    let tokens = student.generate(&[5, 60, 7], 4, Sampling::default(), &[]).expect("tokens");
    let student = AsyncModel::new(student, Capacity::default());
    assert_eq!(values(&student.forward(ids).await.expect("logits")), expected);
    assert_eq!(student.generate(vec![5, 60, 7], 4, Sampling::default(), vec![]).await.expect("tokens"), tokens);
    assert!(student.forward(Tensor::new(&[999u32], &Device::Cpu).expect("ids")).await.is_err());
}

/// Prompts of conversations with unlike samplers and lengths.
fn conversations() -> Vec<(Vec<Message>, Options)> {
    let questions = ["What is the capital of Peru?", "What is 3 + 4?", "Who are you?", "What is the capital of Japan?"];
    let one = |i: usize| {
        let temperature = [0.0, 0.8, 1.3][i % 3];
        let sampling = Sampling {
            temperature,
            seed: i as u64,
            repetition_penalty: 1.0 + (i % 2) as f32 / 4.0,
            ..Sampling::default()
        };
        let messages = vec![Message::user(questions[i % 4])];
        (messages, Options { sampling, force: Vec::new(), ..options(4 + 5 * i) })
    };
    (0..9).map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_that_decode_together_say_what_each_says_alone() {
    let capacity = Capacity { slots: 8, ..Capacity::default() };
    let model = AsyncGenerator::new(generator(), capacity).expect("shared");
    let expected: Vec<Summary> = conversations()
        .into_iter()
        .map(|(messages, options)| generator().chat(&messages, options, &mut |_| {}).expect("an answer"))
        .collect();
    // Three rounds: slots hold other conversations by then, and some callers leave in the middle.
    for round in 0..3 {
        let mut answers = Vec::new();
        for (i, (messages, options)) in conversations().into_iter().enumerate() {
            let model = model.clone();
            answers.push(tokio::spawn(async move {
                let mut answer = model.stream(Prompt::Chat(messages), options).await.expect("accepted");
                let mut tokens = Vec::new();
                while let Some(piece) = answer.next().await {
                    tokens.extend(piece.expect("a piece").token);
                    if round == 1 && i % 3 == 1 && tokens.len() == 2 {
                        return (tokens, true);
                    }
                }
                (tokens, false)
            }));
        }
        for (i, (answer, expected)) in answers.into_iter().zip(&expected).enumerate() {
            let (tokens, left) = answer.await.expect("no panic");
            let want = if left { &expected.tokens[..2] } else { &expected.tokens };
            assert_eq!(tokens, want, "conversation {i} in round {round}");
        }
    }
}
