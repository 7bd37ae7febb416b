//! The form in which a model's chat template writes function calls, found by rendering some.
//!
//! Templates write a call as a JSON object with a name and arguments, or as a name followed by the arguments, which are a JSON
//! object or values between tags; with marks of their own around it (`<tool_call>`, `[TOOL_CALLS]`), or none. A
//! conversation with a call and one with a text differ in just that.

use candle_coreml::generation::{ChatTemplate, Grammar, Spacing, Tokenizer};
use serde_json::{Map, Value};

use super::split::Call;
use super::tools::Tool;
use crate::error::ApiError;

mod learn;
mod pieces;
mod tags;

use pieces::{Eaten, eat};
pub(super) use pieces::{literal, regex_of};
use tags::Tags;

/// How calls are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallForm {
    /// Text before the first call, up to its object or name; that behind the last one's object or arguments.
    open: String,
    close: String,
    /// Text between two calls; `None` if there is only ever one.
    gap: Option<String>,
    shape: Shape,
    /// Whether the template takes arguments as a text of JSON.
    text_arguments: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// An object, in pieces around name and arguments, and its fields with both.
    Object { name: String, arguments: String, pieces: [String; 3] },
    /// A name, a text, and the arguments.
    Named { middle: String, arguments: Arguments, id: Option<Id> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Arguments {
    Json,
    Tags(Box<Tags>),
}

/// Identifiers of calls in a form with names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    /// Written by themselves.
    Apart,
    /// `functions.NAME:NUMBER`, with the name of the function.
    Counted,
}

/// What a text that should have calls begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Calls, and the bytes that they take.
    Calls(Vec<Call>, usize),
    /// It may be calls.
    More,
    No,
}

impl CallForm {
    /// The form of a template.
    pub(super) fn of(template: &ChatTemplate, tools: &[Value]) -> Result<Self, ApiError> {
        learn::form(template, tools)
    }

    /// The mark that calls begin with; empty for bare ones.
    pub(super) fn mark(&self) -> &str {
        match self.shape {
            Shape::Object { .. } => self.open.trim_end_matches('[').trim(),
            Shape::Named { .. } => {
                let word = self.open.split_whitespace().next().unwrap_or_default();
                word.split([pieces::ID, pieces::NUMBER]).next().unwrap_or_default()
            }
        }
    }

    /// The text before the first call.
    pub(super) fn open(&self) -> &str {
        &self.open
    }

    /// The text between the mark and the first call.
    pub(super) fn behind_mark(&self) -> &str {
        self.open.trim_start().strip_prefix(self.mark()).unwrap_or_default()
    }

    /// Whether a text without a mark may begin with a call.
    pub(super) fn begins(&self, text: &str, tools: &[Tool]) -> bool {
        match self.shape {
            Shape::Object { .. } => text.starts_with(['{', '[']),
            Shape::Named { .. } => tools.iter().any(|t| t.name.starts_with(text) || text.starts_with(&t.name)),
        }
    }

    /// Whether calls without a mark can be told from texts by their first character.
    pub(super) fn bare_calls_are_told(&self) -> bool {
        matches!(self.shape, Shape::Object { .. })
    }

    /// The conversation as the template takes it: arguments of earlier calls as objects or as texts.
    pub(super) fn prepare(&self, messages: &mut [Value]) {
        if self.text_arguments {
            let calls = messages.iter_mut().filter_map(|m| m.get_mut("tool_calls")?.as_array_mut());
            for arguments in calls.flatten().map(|c| &mut c["function"]["arguments"]) {
                *arguments = arguments.to_string().into();
            }
        }
    }

    /// The mark behind a call, without the end of a list.
    fn end_mark(&self) -> &str {
        match self.shape {
            Shape::Object { .. } => self.close.trim_start_matches(']').trim(),
            Shape::Named { .. } => self.close.trim(),
        }
    }

    /// A text behind a call without the mark of its end; `None` if it does not begin with that.
    pub(super) fn after_end<'t>(&self, text: &'t str) -> Option<&'t str> {
        match eat(text, self.end_mark()) {
            Eaten::Rest(rest, _) if !self.end_mark().is_empty() => Some(rest),
            _ => None,
        }
    }

    /// Whether a text behind a call may be the beginning of its end mark.
    pub(super) fn may_end(&self, text: &str) -> bool {
        eat(text, self.end_mark()) == Eaten::More
    }

    /// Reads a call, or a list of them, with the marks around. `called`: a call came before; `over`: no text will follow.
    pub(super) fn next(&self, text: &str, called: bool, over: bool, tools: &[Tool]) -> Next {
        match &self.shape {
            Shape::Object { name, arguments, .. } => self.next_object(text, called, tools, [name, arguments]),
            Shape::Named { .. } => self.next_named(text, called, over, tools),
        }
    }

    fn next_object(&self, text: &str, called: bool, tools: &[Tool], fields: [&str; 2]) -> Next {
        let (mark, end_mark) = (self.mark(), self.end_mark());
        let mut rest = text.trim_start();
        if called {
            // Between two calls there may be separators.
            rest = rest.trim_start_matches([',', ';']).trim_start();
        }
        if rest.is_empty() || mark.starts_with(rest) || (called && end_mark.starts_with(rest)) {
            return Next::More;
        }
        let body = rest.strip_prefix(mark).unwrap_or(rest).trim_start();
        if body.is_empty() {
            return Next::More;
        }
        if !body.starts_with(['{', '[']) {
            return Next::No;
        }
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) if error.is_eof() => return Next::More,
            _ => return Next::No,
        };
        let all = match value {
            Value::Array(all) => all,
            one => vec![one],
        };
        match all.iter().map(|v| read_object(v, fields, tools)).collect::<Option<Vec<_>>>() {
            Some(calls) if !calls.is_empty() => {
                let after = body[values.byte_offset()..].trim_start();
                let after = after.strip_prefix(end_mark).unwrap_or(after);
                Next::Calls(calls, text.len() - after.len())
            }
            _ => Next::No,
        }
    }

    fn next_named(&self, text: &str, called: bool, over: bool, tools: &[Tool]) -> Next {
        let mut next = Next::No;
        let gap = self.gap.as_deref().filter(|_| called);
        for lead in gap.into_iter().chain([self.open.as_str()]) {
            match eat(text, lead) {
                // Calls without marks follow each other by their gap only.
                Eaten::Rest(..) if called && lead.trim().is_empty() => {}
                Eaten::Rest(rest, id) => match self.named(rest, id, over, tools) {
                    Next::Calls(calls, taken) => return Next::Calls(calls, text.len() - rest.len() + taken),
                    Next::More => next = Next::More,
                    Next::No => {}
                },
                Eaten::More => next = Next::More,
                Eaten::No => {}
            }
        }
        next
    }

    /// Reads a name and its arguments.
    fn named(&self, text: &str, id: Option<&str>, over: bool, tools: &[Tool]) -> Next {
        let Shape::Named { middle, arguments, id: kind } = &self.shape else { return Next::No };
        let begun = text.trim_start();
        let mut next = Next::No;
        // The longest of several names that begin alike.
        let mut tools: Vec<&Tool> = tools.iter().collect();
        tools.sort_by_key(|t| std::cmp::Reverse(t.name.len()));
        for tool in tools {
            let Some(rest) = begun.strip_prefix(&tool.name) else {
                if tool.name.starts_with(begun) {
                    next = Next::More;
                }
                continue;
            };
            let (rest, inner) = match eat(rest, middle) {
                Eaten::Rest(rest, inner) => (rest, inner),
                Eaten::More => {
                    next = Next::More;
                    continue;
                }
                Eaten::No => continue,
            };
            let found = match arguments {
                Arguments::Json => json_object(rest),
                Arguments::Tags(tags) => {
                    let ends = [Some(self.close.as_str()), self.gap.as_deref()];
                    tags.read(rest, &tool.parameters, ends, over)
                }
            };
            match found {
                tags::Found::Arguments(arguments, after) => {
                    let id = match kind {
                        Some(Id::Apart) => inner.or(id).map(str::to_owned),
                        Some(Id::Counted) => inner.map(|number| format!("functions.{}:{number}", tool.name)),
                        None => None,
                    };
                    let call = Call { id, name: tool.name.clone(), arguments: Value::Object(arguments).to_string() };
                    return Next::Calls(vec![call], text.len() - after.len());
                }
                tags::Found::More => next = Next::More,
                tags::Found::No => {}
            }
        }
        next
    }

    /// Special tokens that the form is written with: they have to be shown.
    pub(super) fn special(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut texts = vec![self.open.as_str(), &self.close];
        texts.extend(self.gap.as_deref());
        if let Shape::Named { middle, arguments, .. } = &self.shape {
            texts.push(middle);
            if let Arguments::Tags(tags) = arguments {
                texts.extend(tags.texts());
            }
        }
        let ids = texts.into_iter().filter_map(|t| tokenizer.encode(t).ok()).flatten();
        ids.filter(|&id| tokenizer.is_special(id)).collect()
    }

    /// Rules of a grammar: `calls`, one call of any of the tools, or several where the form and `several` allow it.
    pub(super) fn rules(&self, tokenizer: &Tokenizer, tools: &[&Tool], several: bool) -> Result<String, ApiError> {
        let mut rules = String::new();
        let mut names = Vec::new();
        for (i, tool) in tools.iter().enumerate() {
            names.push(format!("call{i}"));
            let json = || Grammar::json_rule(&tool.parameters, Spacing::Fixed);
            match &self.shape {
                Shape::Object { pieces: [before, between, behind], .. } => {
                    let name = literal(tokenizer, &format!("{before}{}{between}", json_inside(&tool.name)))?;
                    let behind = literal(tokenizer, behind)?;
                    rules.push_str(&format!("call{i}: {name} arguments{i} {behind}\narguments{i}: {}\n", json()?));
                }
                Shape::Named { middle, arguments, .. } => {
                    let name = literal(tokenizer, &format!("{}{middle}", tool.name))?;
                    rules.push_str(&format!("call{i}: {name} arguments{i}\n"));
                    match arguments {
                        Arguments::Json => rules.push_str(&format!("arguments{i}: {}\n", json()?)),
                        Arguments::Tags(tags) => {
                            rules.push_str(&tags.rules(tokenizer, &format!("arguments{i}"), &tool.parameters)?);
                        }
                    }
                }
            }
        }
        let more = match &self.gap {
            Some(gap) if several => format!(" ({} call)*", literal(tokenizer, gap)?),
            _ => String::new(),
        };
        let close = literal(tokenizer, &self.close)?;
        Ok(format!("{rules}call: {}\ncalls: call{more} {close}\n", names.join(" | ")))
    }
}

/// A JSON object at the start of a text.
fn json_object(text: &str) -> tags::Found<'_> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(Value::Object(object))) => tags::Found::Arguments(object, &text[values.byte_offset()..]),
        None => tags::Found::More,
        Some(Err(error)) if error.is_eof() => tags::Found::More,
        _ => tags::Found::No,
    }
}

/// A call that is an object, of one of these tools.
fn read_object(value: &Value, [name, arguments]: [&str; 2], tools: &[Tool]) -> Option<Call> {
    let name = value.get(name)?.as_str().filter(|n| tools.iter().any(|t| t.name == *n))?;
    let arguments = match value.get(arguments)? {
        all @ Value::Object(_) => all.to_string(),
        Value::String(text) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => text.clone(),
        _ => return None,
    };
    let id = value.get("id").and_then(Value::as_str).filter(|id| !id.is_empty() && id.len() <= 64);
    Some(Call { id: id.map(str::to_owned), name: name.to_owned(), arguments })
}

/// A text inside quotes in JSON.
fn json_inside(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests;
