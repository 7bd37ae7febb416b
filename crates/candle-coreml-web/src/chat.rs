//! Chat with a language model, a token at a time, so that a worker can listen in between.

use std::path::Path;

use candle_coreml::LanguageModel;
use candle_coreml::generation::{Generation, Message, Options, Recommended, Sampling, Summary};
use self_cell::{MutBorrow, self_cell};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::failure::Failure;

self_cell!(
    /// A model that generates.
    struct Running {
        owner: MutBorrow<LanguageModel>,
        #[not_covariant]
        dependent: Generation,
    }
);

enum State {
    Idle(Box<LanguageModel>),
    Running(Running),
    /// While it changes.
    Gone,
}

/// A language model with its conversation.
#[wasm_bindgen]
pub struct Chat {
    state: State,
    recommended: Sampling,
}

#[wasm_bindgen]
impl Chat {
    /// Begins the answer to a conversation: JSON, a list of `{"role": …, "content": …}`. `temperature` 0 selects the most likely
    /// tokens; without one, the model's recommendation is taken.
    ///
    /// # Errors
    /// If the model has no chat template, or the conversation is no such list.
    pub fn start(&mut self, messages: &str, most: usize, temperature: Option<f32>, seed: u32) -> Result<(), JsError> {
        Ok(self.begin(messages, most, temperature, seed)?)
    }

    /// The next piece of text, which may be empty; nothing at the end.
    ///
    /// # Errors
    /// If the model fails.
    #[wasm_bindgen(js_name = next)]
    pub fn piece(&mut self) -> Result<Option<String>, JsError> {
        Ok(self.advance()?)
    }

    /// Ends the answer: its text, tokens and rates as JSON. The rest of an answer that is not at its end is left out.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn finish(&mut self) -> Result<String, JsError> {
        Ok(self.end()?.to_string())
    }
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat").field("recommended", &self.recommended).finish_non_exhaustive()
    }
}

impl Chat {
    /// Loads the language model in a folder.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn load(folder: &Path) -> Result<Self, Failure> {
        let model = LanguageModel::load_from_directory(folder, None)?;
        let greedy = model.pipeline().greedy_only();
        let recommended = if greedy { Recommended::greedy() } else { Recommended::read(folder) }.sampling();
        Ok(Self { state: State::Idle(Box::new(model)), recommended })
    }

    /// [`start`](Self::start).
    ///
    /// # Errors
    /// If the model has no chat template, or the conversation is no such list.
    pub fn begin(&mut self, messages: &str, most: usize, heat: Option<f32>, seed: u32) -> Result<(), Failure> {
        let messages: Vec<Message> = serde_json::from_str(messages)?;
        if matches!(self.state, State::Running(_)) {
            self.end()?;
        }
        let State::Idle(model) = &self.state else { return Err(gone()) };
        let ids = model.tokenize(&model.chat_text(&messages)?)?;
        let temperature = heat.unwrap_or(self.recommended.temperature);
        let sampling = Sampling { temperature, seed: u64::from(seed), ..self.recommended.clone() };
        let options = Options { max_tokens: most, sampling, ..Options::default() };
        if let State::Idle(model) = std::mem::replace(&mut self.state, State::Gone) {
            let running = Running::new(MutBorrow::new(*model), |model| model.borrow_mut().stream(&ids, options));
            self.state = State::Running(running);
        }
        Ok(())
    }

    /// [`piece`](Self::piece).
    ///
    /// # Errors
    /// If the model fails.
    pub fn advance(&mut self) -> Result<Option<String>, Failure> {
        let State::Running(running) = &mut self.state else { return Err(gone()) };
        let step = running.with_dependent_mut(|_, generation| generation.advance());
        Ok(step?.map(|step| step.text))
    }

    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// If there is no answer.
    pub fn end(&mut self) -> Result<Value, Failure> {
        let State::Running(mut running) = std::mem::replace(&mut self.state, State::Gone) else {
            return Err(gone());
        };
        let summary = running.with_dependent_mut(|_, generation| generation.end());
        self.state = State::Idle(Box::new(running.into_owner().into_inner()));
        Ok(object(&summary))
    }
}

fn gone() -> Failure {
    Failure::new("there is no answer in progress")
}

fn object(summary: &Summary) -> Value {
    json!({
        "text": summary.text,
        "tokens": summary.tokens.len(),
        "stop_reason": summary.stop_reason,
        "prefill_tokens": summary.prefill_tokens,
        "prefill_rate": summary.prefill_rate(),
        "decode_steps": summary.decode_steps,
        "decode_rate": summary.decode_rate(),
    })
}
