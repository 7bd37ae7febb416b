//! Language models: text with a callback for its pieces.

use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use candle_coreml::generation::{Message, Options, Sampling, Step, Summary};
use candle_coreml::{Error, LanguageModel, LanguageModelConfig};

use crate::error::{CcmlError, border, c_text, free, object, optional_text, slice, text};
use crate::model::{CcmlOptions, units};

/// A language model with its tokenizer and one conversation; freed by `ccml_language_free`.
#[derive(Debug)]
pub struct CcmlLanguage(Mutex<LanguageModel>);

/// How text is generated. Begin with `ccml_generation_default`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CcmlGeneration {
    /// Maximum number of tokens.
    pub max_tokens: usize,
    /// Divides the logits; 0 selects the most likely token.
    pub temperature: f32,
    /// Keeps that many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of tokens with at least this probability.
    pub top_p: f32,
    /// Drops tokens below this fraction of the most likely one's probability.
    pub min_p: f32,
    /// Divides the logits of tokens seen before; 1 disables it.
    pub repetition_penalty: f32,
    /// Random seed; the same seed gives the same text.
    pub seed: u64,
    /// Texts that end the generation, `stop_count` of them.
    pub stop: *const *const c_char,
    /// Number of stop texts.
    pub stop_count: usize,
}

/// One message of a conversation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CcmlMessage {
    /// `system`, `user` or `assistant`.
    pub role: *const c_char,
    /// The text.
    pub content: *const c_char,
}

/// Called with every piece of text, which lives until it returns; answers false to stop. It must not call the same
/// language model.
pub type CcmlPiece = Option<unsafe extern "C" fn(piece: *const c_char, user: *mut c_void) -> bool>;

/// The defaults: 256 tokens, the most likely ones.
#[unsafe(no_mangle)]
pub extern "C" fn ccml_generation_default() -> CcmlGeneration {
    let (options, sampling) = (Options::default(), Sampling::default());
    CcmlGeneration {
        max_tokens: options.max_tokens,
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        seed: sampling.seed,
        stop: std::ptr::null(),
        stop_count: 0,
    }
}

/// Opens the language model in a folder. Null and an error if it can't be opened.
///
/// # Safety
/// `path` is a text; `options` is null or its members are null or texts; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_language_open(
    path: *const c_char,
    options: *const CcmlOptions,
    error: *mut *mut CcmlError,
) -> *mut CcmlLanguage {
    // SAFETY: the caller's promise.
    let model = unsafe {
        border(error, || {
            let mut config = LanguageModelConfig::default();
            if let Some(options) = options.as_ref() {
                if let Some(function) = optional_text("function", options.function)? {
                    return Err(Error::Request(format!("a language model chooses its functions, not `{function}`")));
                }
                if let Some(engine) = optional_text("engine", options.engine)? {
                    config.engine = engine.parse()?;
                }
                if let Some(name) = optional_text("compute_units", options.compute_units)? {
                    config.compute_units = units(name)?;
                }
            }
            LanguageModel::load_from_directory(text("path", path)?, Some(config))
        })
    };
    model.map_or(std::ptr::null_mut(), |m| Box::into_raw(Box::new(CcmlLanguage(Mutex::new(m)))))
}

/// Continues a text, without a chat template. `piece` may be null. Returns the whole text, freed by `ccml_string_free`.
///
/// # Safety
/// `model` is a language model that is not freed; `prompt` is a text; `generation` is null (the defaults) or its stop texts
/// are texts; `piece` may be called with `user` on this thread; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_language_generate(
    model: *const CcmlLanguage,
    prompt: *const c_char,
    generation: *const CcmlGeneration,
    piece: CcmlPiece,
    user: *mut c_void,
    error: *mut *mut CcmlError,
) -> *mut c_char {
    // SAFETY: the caller's promise.
    let generated = unsafe {
        border(error, || {
            let (model, prompt) = (object("model", model)?, text("prompt", prompt)?);
            let mut model = model.0.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = model.tokenizer().encode_with_special(prompt)?;
            let options = options(generation)?;
            run(options, piece, user, |options, step| model.generate_tokens(&ids, options, step))
        })
    };
    generated.map_or(std::ptr::null_mut(), CString::into_raw)
}

/// Answers a conversation through the model's chat template. `piece` may be null. Returns the whole answer, freed by
/// `ccml_string_free`.
///
/// # Safety
/// Same as `ccml_language_generate`; `messages` points to `count` messages of texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_language_chat(
    model: *const CcmlLanguage,
    messages: *const CcmlMessage,
    count: usize,
    generation: *const CcmlGeneration,
    piece: CcmlPiece,
    user: *mut c_void,
    error: *mut *mut CcmlError,
) -> *mut c_char {
    // SAFETY: the caller's promise.
    let generated = unsafe {
        border(error, || {
            let message = |m: &CcmlMessage| {
                Ok(Message { role: text("role", m.role)?.to_owned(), content: text("content", m.content)?.to_owned() })
            };
            let messages =
                slice("messages", messages, count)?.iter().map(message).collect::<Result<Vec<_>, Error>>()?;
            let mut model = object("model", model)?.0.lock().unwrap_or_else(PoisonError::into_inner);
            run(options(generation)?, piece, user, |options, step| model.chat(&messages, options, step))
        })
    };
    generated.map_or(std::ptr::null_mut(), CString::into_raw)
}

/// # Safety
/// `generation` is null or points to options whose stop texts are texts.
unsafe fn options(generation: *const CcmlGeneration) -> Result<Options, Error> {
    // SAFETY: the caller's promise.
    let Some(given) = (unsafe { generation.as_ref() }) else { return Ok(Options::default()) };
    // SAFETY: the caller's promise.
    let stop = unsafe { slice("stop", given.stop, given.stop_count) }?;
    // SAFETY: the caller's promise.
    let stop = stop.iter().map(|&t| unsafe { text("stop", t) }.map(str::to_owned)).collect::<Result<_, Error>>()?;
    let sampling = Sampling {
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: given.top_p,
        min_p: given.min_p,
        repetition_penalty: given.repetition_penalty,
        seed: given.seed,
    };
    Ok(Options { max_tokens: given.max_tokens, sampling, stop, ..Options::default() })
}

/// Generates, with a call for every piece; the last one is what was held back in case that a stop text would follow.
///
/// # Safety
/// `piece` may be called with `user` on this thread.
unsafe fn run(
    options: Options,
    piece: CcmlPiece,
    user: *mut c_void,
    generate: impl FnOnce(Options, &mut dyn FnMut(&Step)) -> Result<Summary, Error>,
) -> Result<CString, Error> {
    let (cancel, mut sent) = (options.cancel.clone(), 0);
    let send = |text: &str| match piece {
        Some(piece) if !text.is_empty() && !cancel.load(Ordering::Relaxed) => {
            let text = c_text(text);
            // SAFETY: the caller's promise; the text lives until it returns.
            if !unsafe { piece(text.as_ptr(), user) } {
                cancel.store(true, Ordering::Relaxed);
            }
        }
        _ => {}
    };
    let summary = generate(options, &mut |step| {
        sent += step.text.len();
        send(&step.text);
    })?;
    send(summary.text.get(sent..).unwrap_or_default());
    Ok(c_text(summary.text))
}

/// Frees a language model; null is allowed.
///
/// # Safety
/// `model` is null or a language model that is not freed and not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_language_free(model: *mut CcmlLanguage) {
    // SAFETY: language models are given out from a box.
    unsafe { free(model) };
}
