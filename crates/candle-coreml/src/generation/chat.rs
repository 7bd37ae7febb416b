//! Chat templates: Jinja as in `tokenizer_config.json`.

use std::path::{Path, PathBuf};

use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::text::token_text;
use crate::error::{Error, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".to_owned(), content: content.into() }
    }
}

/// Steps that a template may take: thousands of messages need fewer, an endless loop more.
const FUEL: u64 = 10_000_000;

/// A chat template, parsed.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    pub(super) fn load(folder: &Path, settings: &serde_json::Value) -> Result<Option<Self>> {
        let file = folder.join("chat_template.jinja");
        let (path, source) = if file.is_file() {
            let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
            (file, text)
        } else {
            let path = folder.join("tokenizer_config.json");
            match settings.get("chat_template") {
                Some(serde_json::Value::String(s)) => (path, s.clone()),
                // Several named templates: the default one.
                Some(serde_json::Value::Array(all)) => {
                    let named = |t: &&serde_json::Value| t.get("name").and_then(|n| n.as_str()) == Some("default");
                    let chosen = all.iter().find(named).or(all.first()).and_then(|t| t.get("template")?.as_str());
                    match chosen {
                        Some(s) => (path, s.to_owned()),
                        None => return Ok(None),
                    }
                }
                _ => return Ok(None),
            }
        };
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment
            .add_template_owned("chat", source)
            .map_err(|e| Error::File { path: path.clone(), message: format!("chat template: {e:#}") })?;
        let token = |name: &str| settings.get(name).map(token_text).unwrap_or_default();
        Ok(Some(Self { environment, path, bos: token("bos_token"), eos: token("eos_token") }))
    }

    /// The text of a conversation, with the beginning of the model's turn. `thinking` sets the template's
    /// `enable_thinking`; none leaves it undefined.
    ///
    /// # Errors
    /// What the template raises.
    pub fn render(&self, messages: &[Message], thinking: Option<bool>) -> Result<String> {
        let fail =
            |e: minijinja::Error| Error::File { path: self.path.clone(), message: format!("chat template: {e:#}") };
        let template = self.environment.get_template("chat").map_err(fail)?;
        let base = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        match thinking {
            Some(on) => template.render(context! { enable_thinking => on, ..base }),
            None => template.render(base),
        }
        .map_err(fail)
    }
}
