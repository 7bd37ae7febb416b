//! Jinja for chat templates: the language of [Jinja 3.1](https://jinja.palletsprojects.com/en/stable/templates/) with
//! the settings of transformers (`trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`, `tojson` without
//! escapes), in an interpreter with bounded cost.
//!
//! Templates are untrusted. Their length, nesting and expression height are bounded before anything recurses over them;
//! steps, bytes read or allocated, and the depth of values and calls are counted while running ([`TemplateLimits`]).
//! Namespaces are handles that nothing follows, so values cannot contain themselves. Integers are 64-bit; overflow is
//! an error.
//!
//! Multi-file templates (`include`, `import`, `extends`, `block`), recursive loops and extensions are rejected by name.

mod arguments;
mod ast;
mod budget;
mod expression;
mod filters;
mod format;
mod interpreter;
mod lexer;
mod methods;
mod operators;
mod parser;
mod predicates;
mod sequences;
mod time;
mod value;

pub use budget::TemplateLimits;
pub(super) use methods::strip;
pub(super) use value::Value;

use budget::Budget;

/// Error of parsing or rendering a template, with its line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chat template: line {line}: {kind}")]
pub struct TemplateError {
    /// Line of the template, 1-based.
    pub line: usize,
    /// The reason.
    pub kind: TemplateErrorKind,
}

/// Error of parsing or rendering a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// The text is not Jinja.
    #[error("{0}")]
    Syntax(String),
    /// An unsupported tag, filter, test, function or method.
    #[error("the {what} `{name}` is not supported")]
    Unsupported {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The template exceeds a limit.
    #[error("more than {limit} {what}")]
    Limit {
        /// The limited quantity, with its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The template rejects the conversation with `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// Use of an undefined value.
    #[error("{0}")]
    Undefined(String),
    /// A value of the wrong type or out of range.
    #[error("{0}")]
    Value(String),
}

impl TemplateErrorKind {
    /// A stable name: `syntax`, `unsupported`, `limit`, `raised`, `undefined` or `value`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "syntax",
            Self::Unsupported { .. } => "unsupported",
            Self::Limit { .. } => "limit",
            Self::Raised(_) => "raised",
            Self::Undefined(_) => "undefined",
            Self::Value(_) => "value",
        }
    }
}

impl From<TemplateErrorKind> for TemplateError {
    /// An error whose line is not yet known.
    fn from(kind: TemplateErrorKind) -> Self {
        Self { line: 0, kind }
    }
}

type Result<T> = std::result::Result<T, TemplateError>;

fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(TemplateErrorKind::Value(message.into()).into())
}

fn unsupported<T>(what: &'static str, name: &str) -> Result<T> {
    // Names come from the template: bound their length in messages.
    Err(TemplateErrorKind::Unsupported { what, name: quoted(name) }.into())
}

/// Truncated text from a template, for a message.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template {
    body: Vec<ast::Node>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateErrorKind::Syntax`]; [`TemplateErrorKind::Unsupported`] for tags; [`TemplateErrorKind::Limit`].
    pub(super) fn parse(source: &str, limits: &TemplateLimits) -> Result<Self> {
        if source.len() > limits.source {
            let kind = TemplateErrorKind::Limit { what: "bytes of source", limit: limits.source as u64 };
            return Err(TemplateError { line: 1, kind });
        }
        Ok(Self { body: parser::parse(lexer::tokens(source)?)? })
    }

    /// Renders the template with these variables.
    ///
    /// # Errors
    /// If the template raises an error, or uses undefined or invalid values; [`TemplateErrorKind::Limit`].
    pub(super) fn render(&self, variables: Vec<(&str, Value)>, limits: &TemplateLimits) -> Result<String> {
        interpreter::Interpreter::new(Budget::new(limits), variables).run(&self.body)
    }
}

#[cfg(test)]
mod tests;
