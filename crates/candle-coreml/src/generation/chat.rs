//! Chat templates: Jinja, from `tokenizer_config.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::jinja::{Template, TemplateLimits, Value};
use super::text::token_text;
use crate::error::{Error, Result};
use crate::files;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A user message.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }

    /// An assistant message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".to_owned(), content: content.into() }
    }
}

/// A parsed chat template. [`TemplateLimits`] bound its cost.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    limits: TemplateLimits,
    path: PathBuf,
    /// Special tokens by name, those that the tokenizer has.
    tokens: Vec<(&'static str, String)>,
}

/// Names of special tokens that templates see.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    pub(super) fn load(folder: &Path, settings: &serde_json::Value, limits: TemplateLimits) -> Result<Option<Self>> {
        let file = folder.join("chat_template.jinja");
        let found = files::text_if_there(&file, limits.source as u64)?;
        let (path, source) = if let Some(text) = found {
            (file, text)
        } else {
            let path = folder.join("tokenizer_config.json");
            match settings.get("chat_template") {
                Some(serde_json::Value::String(s)) => (path, s.clone()),
                // Several named templates: use the default one.
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
        let template =
            Template::parse(&source, &limits).map_err(|source| Error::Template { path: path.clone(), source })?;
        let token = |name: &&'static str| {
            let value = settings.get(*name).filter(|v| !v.is_null())?;
            Some((*name, token_text(value)))
        };
        Ok(Some(Self { template, limits, path, tokens: SPECIAL.iter().filter_map(token).collect() }))
    }

    /// Parses a template from text. `bos` and `eos` are the texts of `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Template`], which names the file as `path`.
    pub fn parse(path: &Path, source: &str, bos: &str, eos: &str, limits: TemplateLimits) -> Result<Self> {
        let template =
            Template::parse(source, &limits).map_err(|source| Error::Template { path: path.to_owned(), source })?;
        let tokens = vec![("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())];
        Ok(Self { template, limits, path: path.to_owned(), tokens })
    }

    /// Renders a conversation, ending with the start of the model's turn. `thinking` sets the template's
    /// `enable_thinking`; `None` leaves it undefined.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an error, fails or exceeds its limits.
    pub fn render(&self, messages: &[Message], thinking: Option<bool>) -> Result<String> {
        let rows = messages.iter().map(|m| [("role", m.role.as_str()), ("content", m.content.as_str())]);
        let mut variables = vec![
            ("messages", Value::records(rows)),
            ("add_generation_prompt", Value::Bool(true)),
            // As transformers passes them where a conversation has none.
            ("tools", Value::None),
            ("documents", Value::None),
        ];
        variables.extend(self.tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str()))));
        variables.extend(thinking.map(|on| ("enable_thinking", Value::Bool(on))));
        let rendered = self.template.render(variables, &self.limits);
        rendered.map_err(|source| Error::Template { path: self.path.clone(), source })
    }
}
