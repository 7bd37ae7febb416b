//! Cost limits of a template.

use std::sync::Arc;

use super::value::{Key, List, Map, Value};
use super::{Result, TemplateErrorKind};

/// Limits on the cost of a chat template. All are counted, none is timed: a template renders on a slow machine if it
/// renders on a fast one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateLimits {
    /// Size of a template's source in bytes. Default: 1 MiB; the largest known have 30 kB.
    pub source: usize,
    /// Size of the rendered text, and of any captured text, in bytes. Default: 32 MiB.
    pub output: usize,
    /// Total size of all values and texts created by one rendering, in bytes, dropped ones included. Default: 128 MiB.
    pub memory: u64,
    /// Steps of one rendering: an expression, a statement, or 16 bytes of text searched or compared.
    /// Default: 10 million.
    pub steps: u64,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        Self { source: 1 << 20, output: 32 << 20, memory: 128 << 20, steps: 10_000_000 }
    }
}

/// Nesting depth of lists and dictionaries.
pub(super) const VALUE_DEPTH: u8 = 64;
/// Maximum depth of expressions, statements and calls in progress.
pub(super) const CALL_DEPTH: usize = 200;
/// Nesting depth of blocks, brackets and prefix operators.
pub(super) const NESTING: usize = 64;
/// Height of an expression: `a.b`, `a|f` and `a + b` have the height of `a` plus one.
pub(super) const HEIGHT: u16 = 100;
/// Maximum length of `range`, as in Jinja's sandbox.
pub(super) const RANGE: i64 = 100_000;

pub(super) fn limit<T>(what: &'static str, limit: u64) -> Result<T> {
    Err(TemplateErrorKind::Limit { what, limit }.into())
}

/// Remaining budget.
pub(super) struct Budget {
    steps: u64,
    memory: u64,
    limits: TemplateLimits,
}

impl Budget {
    pub(super) fn new(limits: &TemplateLimits) -> Self {
        Self { steps: limits.steps, memory: limits.memory, limits: limits.clone() }
    }

    pub(super) fn steps(&mut self, count: u64) -> Result<()> {
        match self.steps.checked_sub(count) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => limit("steps", self.limits.steps),
        }
    }

    /// Counts bytes searched, compared or otherwise read.
    pub(super) fn read(&mut self, bytes: usize) -> Result<()> {
        self.steps(1 + bytes as u64 / 16)
    }

    /// Counts bytes before they are allocated.
    pub(super) fn take(&mut self, bytes: usize) -> Result<()> {
        match self.memory.checked_sub(bytes as u64) {
            Some(left) => {
                self.memory = left;
                Ok(())
            }
            None => limit("bytes of values", self.limits.memory),
        }
    }

    /// Appends to an output, within its limit.
    pub(super) fn write(&mut self, out: &mut String, text: &str) -> Result<()> {
        if out.len() + text.len() > self.limits.output {
            return limit("bytes of output", self.limits.output as u64);
        }
        self.take(text.len())?;
        out.push_str(text);
        Ok(())
    }

    /// Counts a list of this many elements before it is built.
    pub(super) fn elements(&mut self, count: usize) -> Result<()> {
        self.take(count.saturating_mul(size_of::<Value>()))
    }

    /// Builds a list; its elements were counted as they arrived, or are counted here.
    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        self.sequence(items, false)
    }

    /// What a filter gives that is an iterator in Jinja.
    pub(super) fn lazy(&mut self, items: Vec<Value>) -> Result<Value> {
        self.take(64)?;
        self.elements(items.len())?;
        let depth = Self::above(items.iter())?;
        Ok(Value::List(Arc::new(List { items, depth, tuple: false, lazy: true })))
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Result<Value> {
        self.sequence(items, true)
    }

    fn sequence(&mut self, items: Vec<Value>, tuple: bool) -> Result<Value> {
        self.take(64)?;
        self.elements(items.len())?;
        let depth = Self::above(items.iter())?;
        Ok(Value::List(Arc::new(List { items, depth, tuple, lazy: false })))
    }

    pub(super) fn map(&mut self, entries: Map) -> Result<Value> {
        self.take(64 + entries.len().saturating_mul(size_of::<Value>() + size_of::<Key>() + 16))?;
        let depth = Self::above(entries.values())?;
        Ok(Value::Map(Arc::new(super::value::Dictionary { entries, depth })))
    }

    fn above<'v>(values: impl Iterator<Item = &'v Value>) -> Result<u8> {
        let depth = values.map(Value::depth).max().unwrap_or(0) + 1;
        if depth > VALUE_DEPTH { limit("levels of lists and dictionaries", VALUE_DEPTH.into()) } else { Ok(depth) }
    }

    /// Copies a text.
    pub(super) fn text(&mut self, text: &str) -> Result<Value> {
        self.take(text.len() + 16)?;
        Ok(Value::Str(text.into()))
    }

    /// Starts a text built piece by piece.
    pub(super) fn sink(&mut self) -> Sink<'_> {
        Sink { budget: self, text: String::new() }
    }
}

/// A text whose pieces are counted before they are appended.
pub(super) struct Sink<'b> {
    pub(super) budget: &'b mut Budget,
    text: String,
}

impl Sink<'_> {
    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        self.budget.take(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub(super) fn repeat(&mut self, text: &str, count: usize) -> Result<()> {
        self.budget.take(text.len().saturating_mul(count))?;
        (0..count).for_each(|_| self.text.push_str(text));
        Ok(())
    }

    pub(super) fn char(&mut self, c: char) -> Result<()> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    pub(super) fn value(self) -> Value {
        Value::Str(self.text.into())
    }
}
