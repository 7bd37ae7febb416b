//! Jinja, as chat templates use it: the language of [Jinja 3.1](https://jinja.palletsprojects.com/en/stable/templates/)
//! with the settings of transformers (`trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`, `tojson`
//! without escapes), in an interpreter whose cost is bounded.
//!
//! A template is untrusted text. Its length, nesting and the height of its expressions are bounded before anything
//! recurses over them; each step, each byte that is read or made, and the depth of values and calls are counted while
//! it runs ([`TemplateLimits`]). Namespaces are handles that nothing follows, so that no value can hold itself.
//! Numbers are 64-bit; one that leaves their range is an error.
//!
//! Templates of several files (`include`, `import`, `extends`, `block`), recursive loops and extensions are refused by
//! name.

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
mod value;

pub use budget::TemplateLimits;
pub(super) use value::Value;

use budget::Budget;

/// Why a template could not be read or rendered, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chat template: line {line}: {kind}")]
pub struct TemplateError {
    /// Line of the template, from 1.
    pub line: usize,
    /// The reason.
    pub kind: TemplateErrorKind,
}

/// Why a template could not be read or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// The text is not Jinja.
    #[error("{0}")]
    Syntax(String),
    /// A tag, filter, test, function or method that is not supported.
    #[error("the {what} `{name}` is not supported")]
    Unsupported {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The template asks for more than a limit allows.
    #[error("more than {limit} {what}")]
    Limit {
        /// What is limited, in its unit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The template itself refuses the conversation, by `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// Something that is not there was used.
    #[error("{0}")]
    Undefined(String),
    /// A value of the wrong type or out of its range.
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
    /// An error whose line is not known yet.
    fn from(kind: TemplateErrorKind) -> Self {
        Self { line: 0, kind }
    }
}

type Result<T> = std::result::Result<T, TemplateError>;

fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(TemplateErrorKind::Value(message.into()).into())
}

fn unsupported<T>(what: &'static str, name: &str) -> Result<T> {
    // Names come from the template: what a message quotes of them is bounded.
    Err(TemplateErrorKind::Unsupported { what, name: quoted(name) }.into())
}

/// The beginning of a text from a template, for a message.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A template, parsed.
#[derive(Debug)]
pub(super) struct Template {
    body: Vec<ast::Node>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateErrorKind::Syntax`], [`TemplateErrorKind::Unsupported`] tags, and [`TemplateErrorKind::Limit`].
    pub(super) fn parse(source: &str, limits: &TemplateLimits) -> Result<Self> {
        if source.len() > limits.source {
            let kind = TemplateErrorKind::Limit { what: "bytes of source", limit: limits.source as u64 };
            return Err(TemplateError { line: 1, kind });
        }
        Ok(Self { body: parser::parse(lexer::tokens(source)?)? })
    }

    /// Renders with these variables.
    ///
    /// # Errors
    /// What the template raises, refuses or lacks; [`TemplateErrorKind::Limit`].
    pub(super) fn render(&self, variables: Vec<(&str, Value)>, limits: &TemplateLimits) -> Result<String> {
        interpreter::Interpreter::new(Budget::new(limits), variables).run(&self.body)
    }
}

#[cfg(test)]
mod tests;
