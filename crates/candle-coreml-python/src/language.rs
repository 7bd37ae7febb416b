//! `LanguageModel`: text generation on a thread of its own, pieces of text through a channel.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};

use candle_coreml::generation::{self, Message, Options, Sampling, StopReason};
use candle_coreml::{Error, LanguageModel as Model, LanguageModelConfig};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::{error, interrupt, model};

/// A language model with its tokenizer and one conversation: a folder of Core ML packages with a tokenizer, in ANEMLL's
/// layout or in one file. Nothing else is needed.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The folder.
/// tokenizer : str or os.PathLike, optional
///     Folder of the tokenizer, if it is not beside the packages.
/// thinking : bool, optional
///     `enable_thinking` of the chat template.
/// compute_units : ComputeUnit or str, optional
///     Processors that Apple's Core ML may use: CPU and Neural Engine by default.
/// engine : str
///     `auto`, `native` or `portable`.
#[pyclass(module = "candle_coreml", frozen)]
pub(crate) struct LanguageModel {
    model: Arc<Mutex<Model>>,
}

/// What to continue, or to answer.
enum Prompt {
    Text(String),
    Chat(Vec<Message>),
}

impl Prompt {
    fn of(value: &Bound<'_, PyAny>, chat: bool) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() {
            let text: String = value.extract()?;
            return Ok(if chat { Self::Chat(vec![Message::user(text)]) } else { Self::Text(text) });
        }
        let wrong = |found: String| {
            error::input(value.py(), "messages", "a text, or a list of {\"role\": …, \"content\": …}", found)
        };
        let items = value.try_iter().map_err(|_| wrong(error::type_name(value)))?;
        let message = |item: PyResult<Bound<'_, PyAny>>| {
            let item = item?;
            let fields = item.cast::<PyDict>().map_err(|_| wrong(error::type_name(&item)))?;
            let text = |key: &str| {
                let field = fields.get_item(key)?.and_then(|v| v.extract::<String>().ok());
                field.ok_or_else(|| wrong(format!("a message without the text `{key}`")))
            };
            let known = |k: &Bound<'_, PyAny>| k.extract::<String>().is_ok_and(|k| k == "role" || k == "content");
            if let Some(other) = fields.keys().iter().find(|k| !known(k)) {
                return Err(wrong(format!("a message with `{other}`")));
            }
            Ok(Message { role: text("role")?, content: text("content")? })
        };
        items.map(message).collect::<PyResult<_>>().map(Self::Chat)
    }
}

#[pymethods]
impl LanguageModel {
    #[new]
    #[pyo3(signature = (path, *, tokenizer = None, thinking = None, compute_units = None, engine = "auto"))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        tokenizer: Option<PathBuf>,
        thinking: Option<bool>,
        compute_units: Option<&Bound<'_, PyAny>>,
        engine: &str,
    ) -> PyResult<Self> {
        let mut config =
            LanguageModelConfig { tokenizer, thinking, engine: model::engine(py, engine)?, ..Default::default() };
        if compute_units.is_some() {
            config.compute_units = model::units(compute_units)?;
        }
        let loaded = py.detach(|| Model::load_from_directory(&path, Some(config)));
        Ok(Self { model: Arc::new(Mutex::new(loaded.map_err(|e| error::exception(py, &e))?)) })
    }

    /// Loads a model of the Hugging Face hub, `org/name` or `org/name@revision`; downloads it once.
    #[cfg(feature = "hub")]
    #[staticmethod]
    fn from_hub(py: Python<'_>, id: String) -> PyResult<Self> {
        let (sender, receiver) = mpsc::channel();
        // Not joined: Ctrl-C leaves the download to its thread, and the parts of it that are there to the next one.
        std::thread::spawn(move || drop(sender.send(Model::load_from_hub(&id))));
        let loaded = wait(py, &Mutex::new(receiver))?.unwrap_or_else(|| Err(ended()));
        Ok(Self { model: Arc::new(Mutex::new(loaded.map_err(|e| error::exception(py, &e))?)) })
    }

    /// Continues a text, without a chat template. Greedy unless a temperature is given.
    #[pyo3(signature = (prompt, *, max_tokens = 256, temperature = 0.0, top_k = 0, top_p = 1.0, min_p = 0.0,
        repetition_penalty = 1.0, seed = None, stop = Vec::new()))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: String,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: Option<u64>,
        stop: Vec<String>,
    ) -> PyResult<String> {
        let sampling = sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed);
        self.start(Prompt::Text(prompt), Options { max_tokens, sampling, stop, ..Options::default() }).text(py)
    }

    /// Answers a conversation through the model's chat template: a text of the user, or a list of
    /// `{"role": "system" | "user" | "assistant", "content": …}`. What an earlier call had computed is used again.
    #[pyo3(signature = (messages, *, max_tokens = 256, temperature = 0.0, top_k = 0, top_p = 1.0, min_p = 0.0,
        repetition_penalty = 1.0, seed = None, stop = Vec::new(), thinking = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn chat(
        &self,
        messages: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: Option<u64>,
        stop: Vec<String>,
        thinking: Option<bool>,
    ) -> PyResult<String> {
        let sampling = sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed);
        let options = Options { max_tokens, sampling, stop, thinking, ..Options::default() };
        self.start(Prompt::of(messages, true)?, options).text(messages.py())
    }

    /// Pieces of text as they are generated: of the continuation of a text, or of the answer to a list of messages.
    ///
    /// The iterator's `summary` is there when it is at its end; `close()` stops the generation early.
    #[pyo3(signature = (prompt, *, max_tokens = 256, temperature = 0.0, top_k = 0, top_p = 1.0, min_p = 0.0,
        repetition_penalty = 1.0, seed = None, stop = Vec::new(), thinking = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn stream(
        &self,
        prompt: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: Option<u64>,
        stop: Vec<String>,
        thinking: Option<bool>,
    ) -> PyResult<TextStream> {
        let sampling = sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed);
        let options = Options { max_tokens, sampling, stop, thinking, ..Options::default() };
        Ok(self.start(Prompt::of(prompt, false)?, options))
    }

    /// Token ids of a text; special tokens in it are recognised, none are added.
    fn tokenize(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        self.with(py, |model| model.tokenize(text))
    }

    /// Text of token ids.
    fn detokenize(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        self.with(py, |model| model.tokenizer().decode(&ids))
    }

    /// A conversation as the chat template writes it.
    fn chat_text(&self, messages: &Bound<'_, PyAny>) -> PyResult<String> {
        let Prompt::Chat(messages_) = Prompt::of(messages, true)? else { return Ok(String::new()) };
        self.with(messages.py(), |model| model.chat_text(&messages_))
    }

    /// Forgets the conversation.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |model| {
            model.reset_states();
            Ok(())
        })
    }

    /// Number of tokens that the context holds.
    #[getter]
    fn context_length(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |model| Ok(model.pipeline().dimensions().context))
    }

    /// Engine that runs it: `native` or `portable`.
    #[getter]
    fn engine(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.with(py, |model| Ok(model.pipeline().engine()))
    }
}

fn sampling(temperature: f32, top_k: usize, top_p: f32, min_p: f32, penalty: f32, seed: Option<u64>) -> Sampling {
    let seed = seed.unwrap_or(Sampling::default().seed);
    Sampling { temperature, top_k, top_p, min_p, repetition_penalty: penalty, seed }
}

impl LanguageModel {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Model) -> Result<T, Error> + Send) -> PyResult<T> {
        let done = py.detach(|| work(&mut self.model.lock().unwrap_or_else(PoisonError::into_inner)));
        done.map_err(|e| error::exception(py, &e))
    }

    /// Generates on a thread; generations of one model wait for each other.
    fn start(&self, prompt: Prompt, options: Options) -> TextStream {
        let (sender, pieces) = mpsc::channel();
        let (model, cancel) = (self.model.clone(), options.cancel.clone());
        std::thread::spawn(move || {
            let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
            let cancel = options.cancel.clone();
            let piece = |step: &generation::Step| {
                if sender.send(Piece::Text(step.text.clone())).is_err() {
                    cancel.store(true, Ordering::Relaxed);
                }
            };
            let done = match prompt {
                Prompt::Text(text) => model
                    .tokenizer()
                    .encode_with_special(&text)
                    .and_then(|ids| model.generate_tokens(&ids, options, piece)),
                Prompt::Chat(messages) => model.chat(&messages, options, piece),
            };
            // Before the end is told: the next generation finds the model free.
            drop(model);
            let _gone = sender.send(Piece::End(done.map(Box::new)));
        });
        TextStream { pieces: Mutex::new(pieces), cancel, end: Mutex::new(End { sent: 0, summary: None }) }
    }
}

/// What the thread sends.
enum Piece {
    Text(String),
    End(Result<Box<generation::Summary>, Error>),
}

/// Pieces of generated text: an iterator of `str`.
#[pyclass(module = "candle_coreml", frozen)]
pub(crate) struct TextStream {
    pieces: Mutex<Receiver<Piece>>,
    cancel: Arc<AtomicBool>,
    end: Mutex<End>,
}

/// Bytes of text so far, and the summary once there is one.
struct End {
    sent: usize,
    summary: Option<generation::Summary>,
}

#[pymethods]
impl TextStream {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            match wait(py, &self.pieces).inspect_err(|_| self.close())? {
                None => return Ok(None),
                Some(Piece::Text(text)) if text.is_empty() => {}
                Some(Piece::Text(text)) => {
                    self.end.lock().unwrap_or_else(PoisonError::into_inner).sent += text.len();
                    return Ok(Some(text));
                }
                Some(Piece::End(Err(e))) => return Err(error::exception(py, &e)),
                Some(Piece::End(Ok(summary))) => {
                    let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
                    // What was held back in case that a stop text would follow.
                    let rest = summary.text.get(end.sent..).unwrap_or_default().to_owned();
                    end.summary = Some(*summary);
                    return Ok(Some(rest).filter(|rest| !rest.is_empty()));
                }
            }
        }
    }

    /// Stops the generation at its next token.
    fn close(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// The result, once the iterator is at its end; else `None`.
    #[getter]
    fn summary(&self) -> Option<Summary> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.summary.as_ref().map(Summary::of)
    }
}

impl TextStream {
    /// The whole text.
    fn text(self, py: Python<'_>) -> PyResult<String> {
        while self.__next__(py)?.is_some() {}
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match &end.summary {
            Some(summary) => Ok(summary.text.clone()),
            None => Err(error::exception(py, &ended())),
        }
    }
}

impl Drop for TextStream {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

fn ended() -> Error {
    Error::Aborted("its thread panicked".to_owned())
}

/// The next value of a channel, `None` if the sender is gone; other threads of Python run meanwhile, and signals are
/// looked at.
fn wait<T: Send>(py: Python<'_>, channel: &Mutex<Receiver<T>>) -> PyResult<Option<T>> {
    loop {
        let next = py.detach(|| channel.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(interrupt::PERIOD));
        match next {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
        }
    }
}

/// Result of a generation.
#[pyclass(module = "candle_coreml", frozen, get_all)]
pub(crate) struct Summary {
    /// The generated text.
    text: String,
    /// Its tokens, without the end token.
    tokens: Vec<u32>,
    /// `end_of_text`, `stop_text`, `max_tokens`, `window_full` or `cancelled`.
    stop_reason: &'static str,
    /// Tokens of the prompt that were computed: those that the cache did not hold.
    prefill_tokens: usize,
    /// Time to the first token, in seconds.
    prefill_seconds: f64,
    /// Time of all later tokens, in seconds.
    decode_seconds: f64,
    /// Number of later tokens.
    decode_steps: usize,
}

impl Summary {
    fn of(summary: &generation::Summary) -> Self {
        Self {
            text: summary.text.clone(),
            tokens: summary.tokens.clone(),
            stop_reason: match summary.stop_reason {
                StopReason::EndOfText => "end_of_text",
                StopReason::StopText => "stop_text",
                StopReason::MaxTokens => "max_tokens",
                StopReason::WindowFull => "window_full",
                StopReason::Cancelled => "cancelled",
            },
            prefill_tokens: summary.prefill_tokens,
            prefill_seconds: summary.prefill_seconds,
            decode_seconds: summary.decode_seconds,
            decode_steps: summary.decode_steps,
        }
    }
}
