//! [`AsyncGenerator`]: asynchronous text generation.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Capacity;
use super::admission::Admission;
use super::answer::{Answer, CancelOnDrop, Completion, Event, Piece, lost};
use super::slots::{Slot, Slots};
use crate::backend::{GeneratorInfo, SharedModel, TextGeneration};
use crate::byte_limit::ByteLimit;
use crate::error::{Error, Result};
use crate::generation::{Conversation, Generation, Message, Options, Recommended, Step, Summary, Tokenizer};

/// The prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text, without a chat template.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// A conversation to answer, through the model's chat template. No messages are dropped.
    Chat(Vec<Message>),
    /// A conversation with tools, calls and whatever else the chat template reads.
    /// [`Options::thinking`] sets `enable_thinking` where the conversation does not.
    Conversation(Box<Conversation>),
}

/// Observes answers, on the computing threads; a slow observer slows them down.
pub trait Watch: Send + Sync {
    /// A prompt was accepted, `cached` of its tokens from a cache.
    fn started(&self, _prompt: usize, _cached: usize) {}

    /// Time from the call to the first token.
    fn first_token(&self, _after: Duration) {}

    /// Time between two tokens.
    fn next_token(&self, _after: Duration) {}

    /// A started answer has ended.
    fn ended(&self, _end: &Result<Summary>) {}
}

/// An observer that ignores all events.
struct NoopWatch;

impl Watch for NoopWatch {}

/// A language model for several concurrent callers that does not block a tokio runtime. Clones share the model.
///
/// It keeps [`Capacity::slots`] conversations. A prompt continues the one with the longest common prefix; only new
/// tokens run.
#[derive(Clone)]
pub struct AsyncGenerator {
    inner: Arc<Inner>,
}

struct Inner {
    model: SharedModel,
    admission: Admission,
    slots: Slots,
    bytes: ByteLimit,
    buffer: usize,
    watch: Arc<dyn Watch>,
    recommended: Recommended,
    greedy_only: bool,
}

impl std::fmt::Debug for AsyncGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncGenerator").field("model", &self.inner.model).finish_non_exhaustive()
    }
}

impl AsyncGenerator {
    /// Takes ownership of a model and generates a first token, so that a chain of backends falls back now and not
    /// during the first answers. Blocks: do not call it on an async thread.
    ///
    /// # Errors
    /// If the first token fails, the model can't be shared, or allocation fails.
    pub fn new(model: impl TextGeneration, capacity: Capacity) -> Result<Self> {
        Self::watched(model, capacity, Arc::new(NoopWatch))
    }

    /// [`AsyncGenerator::new`] with an observer.
    ///
    /// # Errors
    /// Same as `new`.
    pub fn watched(mut model: impl TextGeneration, capacity: Capacity, watch: Arc<dyn Watch>) -> Result<Self> {
        model.generate("1", Options { max_tokens: 1, ..Options::default() })?;
        let (info, recommended) = (model.info(), model.recommended());
        let shared = model.share().ok_or_else(|| {
            Error::Unavailable(format!(
                "the {} backend ({}) can't hold several conversations",
                info.device, info.engine
            ))
        })?;
        drop(model);
        Self::recommending(shared, capacity, watch, recommended)
    }

    /// Uses a model that is already shared.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn shared(model: SharedModel, capacity: Capacity, watch: Arc<dyn Watch>) -> Result<Self> {
        Self::recommending(model, capacity, watch, Recommended::default())
    }

    fn recommending(
        model: SharedModel,
        capacity: Capacity,
        watch: Arc<dyn Watch>,
        recommended: Recommended,
    ) -> Result<Self> {
        let slots = Slots::new(&model, capacity.slots)?;
        let greedy_only = slots.greedy_only();
        let buffer = capacity.buffer.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        let bytes = model.tokenizer().byte_limit(model.info().context);
        Ok(Self {
            inner: Arc::new(Inner {
                model,
                admission: Admission::new(capacity),
                slots,
                bytes,
                buffer,
                watch,
                recommended,
                greedy_only,
            }),
        })
    }

    /// Information about the model.
    pub fn info(&self) -> &GeneratorInfo {
        self.inner.model.info()
    }

    /// How the model's authors would have tokens chosen; nothing is applied unasked.
    pub fn recommended(&self) -> &Recommended {
        &self.inner.recommended
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.inner.model.tokenizer()
    }

    /// Number of tokens that the model knows.
    pub fn vocab(&self) -> usize {
        self.inner.model.vocab()
    }

    /// Whether the model says which token is best, but not how likely others are: sampling, penalties, constraints and
    /// log-probabilities are refused.
    pub fn greedy_only(&self) -> bool {
        self.inner.greedy_only
    }

    /// Returns true if the model has a chat template.
    pub fn can_chat(&self) -> bool {
        self.inner.model.tokenizer().chat_template().is_some()
    }

    /// Number of waiting calls.
    pub fn waiting(&self) -> usize {
        self.inner.admission.waiting()
    }

    /// Number of answers being computed.
    pub fn running(&self) -> usize {
        self.inner.admission.running()
    }

    /// Starts an answer; returns when it has a slot and the prompt is accepted. Dropping the future or the answer
    /// cancels it.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full, [`Error::PromptTooLong`] or [`Error::PromptBytes`], [`Error::EmptyPrompt`]
    /// or [`Error::NoMessages`], [`Error::UnknownToken`], [`Error::NoChatTemplate`]. Engine failures are reported by
    /// the answer.
    pub async fn stream(&self, prompt: Prompt, options: Options) -> Result<Answer> {
        // Check first, so that oversized prompts don't wait.
        self.inner.check_length(&prompt)?;
        let (called, permit) = (Instant::now(), self.inner.admission.enter().await?);
        self.start(called, permit, prompt, options).await
    }

    /// [`stream`](Self::stream) of one more answer for a caller who has one: waits for a slot however many others wait. Callers
    /// bound how many they start at once.
    ///
    /// # Errors
    /// Same as [`AsyncGenerator::stream`], but never [`Error::Busy`].
    pub async fn stream_another(&self, prompt: Prompt, options: Options) -> Result<Answer> {
        self.inner.check_length(&prompt)?;
        let (called, permit) = (Instant::now(), self.inner.admission.enter_late().await?);
        self.start(called, permit, prompt, options).await
    }

    async fn start(
        &self,
        called: Instant,
        permit: OwnedSemaphorePermit,
        prompt: Prompt,
        options: Options,
    ) -> Result<Answer> {
        let (accept, accepted) = oneshot::channel();
        let (sender, events) = mpsc::channel(self.inner.buffer);
        let cancel = CancelOnDrop::default();
        let job = Job { inner: self.inner.clone(), permit, called, cancel: cancel.0.clone(), sender };
        tokio::task::spawn_blocking(move || job.run(prompt, options, accept));
        let (prompt_tokens, cached_tokens) = accepted.await.map_err(|_| lost())??;
        Ok(Answer { events, prompt_tokens, cached_tokens, summary: None, ended: false, _cancel: cancel })
    }

    /// Returns the complete answer.
    ///
    /// # Errors
    /// Same as [`AsyncGenerator::stream`], or if the engine fails.
    pub async fn generate(&self, prompt: Prompt, options: Options) -> Result<Completion> {
        self.stream(prompt, options).await?.finish().await
    }
}

/// One answer, on a blocking thread.
struct Job {
    inner: Arc<Inner>,
    permit: OwnedSemaphorePermit,
    called: Instant,
    cancel: Arc<AtomicBool>,
    sender: mpsc::Sender<Event>,
}

/// Token counts of an accepted prompt: total and cached.
type Accept = oneshot::Sender<Result<(usize, usize)>>;

impl Job {
    fn run(self, prompt: Prompt, options: Options, accept: Accept) {
        let begun = self.inner.encode(prompt, &options).and_then(|ids| {
            let slot = self.inner.slots.take(&self.inner.model, &ids)?;
            Ok((ids, slot))
        });
        let (ids, mut slot) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                drop(self.permit);
                // The caller may be gone.
                let _ = accept.send(Err(error));
                return;
            }
        };
        let ran = catch_unwind(AssertUnwindSafe(|| self.generate(&mut slot, &ids, options, accept)));
        let end = match ran {
            Ok(end) => {
                // Return the slot first: the reader may continue the conversation immediately.
                self.inner.slots.put(slot);
                end
            }
            // The conversation is in an unknown state; a new one replaces it.
            Err(_) => {
                drop(slot);
                Some(Err(lost()))
            }
        };
        drop(self.permit);
        if let Some(end) = end {
            self.inner.watch.ended(&end);
            let _ = self.sender.blocking_send(Event::End(end));
        }
    }

    /// Returns `None` if the answer was dropped before it started.
    fn generate(&self, slot: &mut Slot, ids: &[u32], options: Options, accept: Accept) -> Option<Result<Summary>> {
        let watch = &self.inner.watch;
        let mut generation = Generation::with_decoder(&mut **slot, self.inner.model.tokenizer(), ids, options)
            .cancelled_by(self.cancel.clone());
        let cached = generation.cached();
        accept.send(Ok((ids.len(), cached))).ok()?;
        watch.started(ids.len(), cached);
        let (mut last, mut sent) = (None::<Instant>, 0);
        loop {
            let Step { token, text, probabilities, .. } = match generation.advance() {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => return Some(Err(error)),
            };
            let now = Instant::now();
            match last.replace(now) {
                None => watch.first_token(now - self.called),
                Some(before) => watch.next_token(now - before),
            }
            sent += text.len();
            self.send(Piece { token: Some(token), text, probabilities });
        }
        let summary = generation.finish();
        // Text held back as a possible prefix of a stop text.
        if let Some(rest) = summary.text.get(sent..).filter(|rest| !rest.is_empty()) {
            self.send(Piece { token: None, text: rest.to_owned(), probabilities: None });
        }
        Some(Ok(summary))
    }

    /// Sends a piece; cancels generation if the reader is gone.
    fn send(&self, piece: Piece) {
        if self.sender.blocking_send(Event::Piece(piece)).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

impl Inner {
    /// Rejects a prompt whose byte length or number of ids shows that it is too long.
    fn check_length(&self, prompt: &Prompt) -> Result<()> {
        let context = self.model.info().context;
        match prompt {
            Prompt::Tokens(ids) if ids.len() > context => Err(Error::PromptTooLong { tokens: ids.len(), context }),
            Prompt::Tokens(_) => Ok(()),
            Prompt::Text(text) => self.bytes.check(text.len()),
            Prompt::Chat(messages) => self.bytes.check(messages.iter().map(|m| m.content.len()).sum()),
            Prompt::Conversation(talk) => {
                let all =
                    talk.messages.iter().chain(talk.tools.iter().flatten()).chain(talk.documents.iter().flatten());
                self.bytes.check(all.map(texts).sum())
            }
        }
    }

    fn rendered(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        let tokenizer = self.model.tokenizer();
        let text = tokenizer.needed_template()?.render_conversation(conversation)?;
        // Templates may repeat their input.
        self.bytes.check(text.len())?;
        tokenizer.encode(&text)
    }

    /// Encodes the prompt as valid tokens.
    fn encode(&self, prompt: Prompt, options: &Options) -> Result<Vec<u32>> {
        let tokenizer = self.model.tokenizer();
        let ids = match prompt {
            Prompt::Tokens(ids) => ids,
            Prompt::Text(text) => tokenizer.encode_with_special(&text)?,
            Prompt::Chat(messages) if messages.is_empty() => {
                return Err(Error::NoMessages);
            }
            Prompt::Chat(messages) => self.rendered(&Conversation::of(&messages, options.thinking))?,
            Prompt::Conversation(mut talk) => {
                if let Some(thinking) = options.thinking {
                    talk.variables.entry("enable_thinking").or_insert(thinking.into());
                }
                self.rendered(&talk)?
            }
        };
        let (vocab, context) = (self.model.vocab(), self.model.info().context);
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::unknown_token(id, vocab));
        }
        if ids.len() > context {
            return Err(Error::PromptTooLong { tokens: ids.len(), context });
        }
        Ok(ids)
    }
}

/// Bytes of the texts in a value.
fn texts(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len(),
        serde_json::Value::Array(all) => all.iter().map(texts).sum(),
        serde_json::Value::Object(all) => all.values().map(texts).sum(),
        _ => 0,
    }
}
