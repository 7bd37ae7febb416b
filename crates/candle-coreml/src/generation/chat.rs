//! Chat templates: Jinja, from `chat_template.jinja`, `chat_templates` or `tokenizer_config.json`.

use std::path::{Path, PathBuf};

use coreml_format::file;
use serde::{Deserialize, Serialize};

use super::conversation::{self, Conversation, Ending};
use super::jinja::{Template, TemplateError, TemplateLimits, Value};
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
    /// A system message: instructions to the model.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".to_owned(), content: content.into() }
    }

    /// A user message.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }

    /// An assistant message.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".to_owned(), content: content.into() }
    }
}

impl From<&str> for Message {
    /// A user message.
    fn from(content: &str) -> Self {
        Self::user(content)
    }
}

impl From<String> for Message {
    /// A user message.
    fn from(content: String) -> Self {
        Self::user(content)
    }
}

/// The chat templates of a model, parsed. [`TemplateLimits`] bound their cost.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: Vec<Named>,
    limits: TemplateLimits,
    /// Special tokens by name, those that the tokenizer has.
    tokens: Vec<(&'static str, String)>,
}

/// A template, or why it is none.
#[derive(Debug)]
struct Named {
    name: String,
    path: PathBuf,
    source: String,
    parsed: std::result::Result<Template, TemplateError>,
}

/// Names of special tokens that templates see.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Name of the template of a conversation without tools; also that of an only template.
const DEFAULT: &str = "default";

/// Maximum number of templates of a model.
const MOST: usize = 64;

impl ChatTemplate {
    pub(super) fn load(folder: &Path, settings: &serde_json::Value, limits: TemplateLimits) -> Result<Option<Self>> {
        let mut sources = of_folder(folder, &limits)?;
        if sources.is_empty() {
            sources = of_settings(&folder.join("tokenizer_config.json"), settings);
        }
        if sources.is_empty() {
            // Older processors keep the template apart.
            let path = folder.join("chat_template.json");
            sources = files::json_if_there(&path)?.map(|file| of_settings(&path, &file)).unwrap_or_default();
        }
        if sources.is_empty() {
            return Ok(None);
        }
        if sources.len() > MOST {
            let message = format!("expected at most {MOST} chat templates, found {}", sources.len());
            return Err(Error::File { path: sources.swap_remove(0).1, message });
        }
        let token = |name: &&'static str| {
            let value = settings.get(*name).filter(|v| !v.is_null())?;
            Some((*name, token_text(value)))
        };
        let tokens = SPECIAL.iter().filter_map(token).collect();
        let parse = |(name, path, source): (String, PathBuf, String)| Named {
            parsed: Template::parse(&source, &limits),
            name,
            path,
            source,
        };
        let templates: Vec<Named> = sources.into_iter().map(parse).collect();
        let all = Self { templates, limits, tokens };
        // Errors of the others appear where they are used.
        if let Some(usual) = all.templates.iter().find(|t| t.name == DEFAULT || all.templates.len() == 1) {
            usual.template()?;
        }
        Ok(Some(all))
    }

    /// Parses a template from text. `bos` and `eos` are the texts of `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Template`], which names the file as `path`.
    pub fn parse(path: &Path, source: &str, bos: &str, eos: &str, limits: TemplateLimits) -> Result<Self> {
        let tokens = vec![("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())];
        let parsed = Template::parse(source, &limits);
        let one = Named { name: DEFAULT.to_owned(), path: path.to_owned(), source: source.to_owned(), parsed };
        one.template()?;
        Ok(Self { templates: vec![one], limits, tokens })
    }

    /// Names of the templates; an only one is `default`.
    pub fn names(&self) -> Vec<&str> {
        self.templates.iter().map(|t| t.name.as_str()).collect()
    }

    /// Renders a conversation, ending with the start of the model's turn. `thinking` sets the template's
    /// `enable_thinking`; `None` leaves it undefined.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an error, fails or exceeds its limits.
    pub fn render(&self, messages: &[Message], thinking: Option<bool>) -> Result<String> {
        self.render_conversation(&Conversation::of(messages, thinking))
    }

    /// Renders a conversation byte for byte as `apply_chat_template` of transformers 5 does, with its template for tools if
    /// there are tools.
    ///
    /// # Errors
    /// [`Error::NoMessages`]; [`Error::Request`] if messages, tools or documents are not objects, or the last message can't
    /// be continued; [`Error::NotFound`] if there is no such template; [`Error::Template`] if the template raises an
    /// error, fails or exceeds its limits.
    pub fn render_conversation(&self, conversation: &Conversation) -> Result<String> {
        let chosen = self.choose(conversation)?;
        let template = chosen.template()?;
        let (messages, continued) = conversation.prepared(&chosen.source)?;
        let fail = |source| Error::Template { path: chosen.path.clone(), source };
        let value = |value: &serde_json::Value| Value::of_json(value).map_err(fail);
        let list = |all: &Option<Vec<serde_json::Value>>| match all {
            None => Ok(Value::None),
            Some(all) => value(&serde_json::Value::Array(all.clone())),
        };
        let mut variables: Vec<(&str, Value)> =
            self.tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str()))).collect();
        for (name, given) in &conversation.variables {
            variables.push((name, value(given)?));
        }
        variables.extend([
            ("messages", value(&serde_json::Value::Array(messages))?),
            ("add_generation_prompt", Value::Bool(conversation.ending == Ending::Prompt)),
            ("tools", list(&conversation.tools)?),
            ("documents", list(&conversation.documents)?),
        ]);
        let rendered = template.render(variables, &self.limits).map_err(fail)?;
        match continued {
            Some(text) => conversation::cut(rendered, &text),
            None => Ok(rendered),
        }
    }

    /// The template of a conversation: the one it names, else that for tools if there are tools, else the default.
    fn choose(&self, conversation: &Conversation) -> Result<&Named> {
        let named = |name: &str| self.templates.iter().find(|t| t.name == name);
        let found = match &conversation.template {
            Some(name) => named(name),
            None => {
                let tools = conversation.tools.as_ref().and_then(|_| named("tool_use"));
                let only = if let [one] = self.templates.as_slice() { Some(one) } else { None };
                tools.or_else(|| named(DEFAULT)).or(only)
            }
        };
        found.ok_or_else(|| Error::NotFound {
            what: "chat template",
            name: conversation.template.clone().unwrap_or_else(|| DEFAULT.to_owned()),
            path: self.templates.first().map(|t| t.path.clone()).unwrap_or_default(),
            available: self.names().join(", "),
        })
    }
}

impl Named {
    fn template(&self) -> Result<&Template> {
        self.parsed.as_ref().map_err(|source| Error::Template { path: self.path.clone(), source: source.clone() })
    }
}

/// Name, file and text of the templates that are files: `chat_template.jinja`, and those in `chat_templates`.
fn of_folder(folder: &Path, limits: &TemplateLimits) -> Result<Vec<(String, PathBuf, String)>> {
    let mut found = Vec::new();
    let path = folder.join("chat_template.jinja");
    if let Some(text) = files::text_if_there(&path, limits.source as u64)? {
        found.push((DEFAULT.to_owned(), path, text));
    }
    let mut others: Vec<PathBuf> = file::entries(&folder.join("chat_templates"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|path| path.extension().is_some_and(|e| e == "jinja"))
        .take(MOST)
        .collect();
    others.sort();
    for path in others {
        let Some(name) = path.file_stem().and_then(|n| n.to_str()).map(str::to_owned) else { continue };
        if let Some(text) = files::text_if_there(&path, limits.source as u64)? {
            found.push((name, path, text));
        }
    }
    Ok(found)
}

/// Name, file and text of the templates under `chat_template`: a text, a list of names and texts, or an object of texts.
fn of_settings(path: &Path, settings: &serde_json::Value) -> Vec<(String, PathBuf, String)> {
    let row = |name: &str, text: &str| (name.to_owned(), path.to_owned(), text.to_owned());
    match settings.get("chat_template") {
        Some(serde_json::Value::String(text)) => vec![row(DEFAULT, text)],
        Some(serde_json::Value::Array(all)) => {
            all.iter().filter_map(|t| Some(row(t.get("name")?.as_str()?, t.get("template")?.as_str()?))).collect()
        }
        Some(serde_json::Value::Object(all)) => {
            all.iter().filter_map(|(name, text)| Some(row(name, text.as_str()?))).collect()
        }
        _ => Vec::new(),
    }
}
