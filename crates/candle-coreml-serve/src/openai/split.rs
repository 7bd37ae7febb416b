//! The text of an answer, apart: thoughts, what is said, calls of functions.

use std::sync::Arc;

use super::calls::{CallForm, Next};
use super::tools::Tool;

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Reasoning(String),
    Content(String),
    Call(Call),
}

/// A call of a function; `arguments` is a JSON object, `id` what the model calls it by, if it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A thought may begin.
    Start,
    Thinking,
    /// White space behind a thought.
    Between,
    /// The first characters of what is said.
    First,
    Saying,
    Calling,
}

/// Splits the text of an answer as it comes. Marks and white space around them are left out.
#[derive(Debug, Clone)]
pub(super) struct Splitter {
    state: State,
    held: String,
    /// The form of calls and the functions.
    calls: Option<(Arc<CallForm>, Arc<[Tool]>)>,
    called: bool,
    /// Whether a part of the thought has come.
    thought: bool,
    /// Whether the text is one part as it is.
    whole: bool,
    /// Whether no text will follow.
    over: bool,
}

/// Length of the longest end of `text` that is a beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    (1..mark.len()).rev().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n])).unwrap_or(0)
}

impl Splitter {
    /// Nothing but a text.
    pub(super) fn plain() -> Self {
        Self {
            state: State::Saying,
            held: String::new(),
            calls: None,
            called: false,
            thought: false,
            whole: true,
            over: false,
        }
    }

    /// Thoughts, which the prompt may have begun, a text and calls.
    pub(super) fn chat(thinking: bool, calls: Option<(Arc<CallForm>, Arc<[Tool]>)>) -> Self {
        let state = if thinking { State::Thinking } else { State::Start };
        Self { state, held: String::new(), calls, called: false, thought: false, whole: false, over: false }
    }

    /// Whether functions were called.
    pub(super) fn called(&self) -> bool {
        self.called
    }

    /// Whether a thought goes on.
    pub(super) fn thinks(&self) -> bool {
        self.state == State::Thinking
    }

    /// Parts completed by a piece of text.
    pub(super) fn push(&mut self, text: &str) -> Vec<Part> {
        if self.whole {
            return if text.is_empty() { Vec::new() } else { vec![Part::Content(text.to_owned())] };
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// The parts held back until the end.
    pub(super) fn end(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        self.over = true;
        while self.state == State::Calling && self.call(&mut parts) {}
        let rest = std::mem::take(&mut self.held);
        parts.extend(self.rest(&rest));
        parts
    }

    fn rest(&self, rest: &str) -> Vec<Part> {
        match self.state {
            _ if rest.is_empty() => Vec::new(),
            State::Thinking => keep(Part::Reasoning, rest.trim_end()),
            // A mark that was cut is no text.
            State::Calling if self.called => {
                keep(Part::Content, rest.trim()).into_iter().filter(|_| !self.may_end(rest)).collect()
            }
            State::Between => Vec::new(),
            State::Saying if self.called => keep(Part::Content, rest.trim_end()),
            _ => vec![Part::Content(rest.to_owned())],
        }
    }

    /// Takes a step if there is text enough; whether there may be another.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start => {
                let begun = self.held.trim_start();
                if let Some(rest) = begun.strip_prefix(THINK) {
                    (self.held, self.state) = (rest.to_owned(), State::Thinking);
                    return true;
                }
                if THINK.starts_with(begun) {
                    return false;
                }
                self.state = State::First;
                true
            }
            State::Thinking => {
                let begin =
                    |text: &str, begun: bool| if begun { 0 } else { text.len() - text.trim_start_matches('\n').len() };
                if let Some((thought, rest)) = self.held.split_once(THOUGHT) {
                    parts.extend(keep(Part::Reasoning, thought[begin(thought, self.thought)..].trim_end_matches('\n')));
                    (self.held, self.state) = (rest.to_owned(), State::Between);
                    return true;
                }
                // White space that may stand before the mark, and the beginning of the mark.
                let sure = self.held[..self.held.len() - overlap(&self.held, THOUGHT)].trim_end().len();
                let thought = &self.held[..sure];
                let new = keep(Part::Reasoning, &thought[begin(thought, self.thought)..]);
                self.thought |= !new.is_empty();
                parts.extend(new);
                self.held.drain(..sure);
                false
            }
            State::Between => {
                self.held = self.held.trim_start().to_owned();
                if !self.held.is_empty() {
                    self.state = State::First;
                }
                !self.held.is_empty()
            }
            State::First => {
                let begun = self.held.trim_start();
                let bare = self.calls.as_ref().filter(|(form, _)| form.mark().is_empty());
                if bare.is_some() && begun.is_empty() {
                    return false;
                }
                let calls = bare.is_some_and(|(form, tools)| form.begins(begun, tools));
                self.state = if calls { State::Calling } else { State::Saying };
                true
            }
            State::Saying => self.say(parts),
            State::Calling => self.call(parts),
        }
    }

    fn say(&mut self, parts: &mut Vec<Part>) -> bool {
        let mark = self.calls.as_ref().map(|(form, _)| form.mark().to_owned()).filter(|m| !m.is_empty());
        let Some(mark) = mark else {
            parts.extend(keep(Part::Content, &std::mem::take(&mut self.held)));
            return false;
        };
        if let Some(at) = self.held.find(&mark) {
            // White space before a mark that is no call is text.
            let sure = self.held[..at].trim_end().len();
            parts.extend(keep(Part::Content, &self.held[..sure]));
            self.held.drain(..sure);
            self.state = State::Calling;
            return true;
        }
        let sure = self.held[..self.held.len() - overlap(&self.held, &mark)].trim_end().len();
        parts.extend(keep(Part::Content, &self.held[..sure]));
        self.held.drain(..sure);
        false
    }

    /// Whether a text behind a call may be the beginning of its end mark.
    fn may_end(&self, text: &str) -> bool {
        self.calls.as_ref().is_some_and(|(form, _)| form.may_end(text))
    }

    fn call(&mut self, parts: &mut Vec<Part>) -> bool {
        let Some((form, tools)) = self.calls.clone() else { return false };
        if let Some(rest) = form.after_end(&self.held).filter(|_| self.called) {
            self.held = rest.to_owned();
        }
        match form.next(&self.held, self.called, self.over, &tools) {
            Next::Calls(calls, taken) => {
                self.called = true;
                parts.extend(calls.into_iter().map(Part::Call));
                self.held.drain(..taken);
                true
            }
            Next::More => false,
            Next::No if self.called && (self.held.trim().is_empty() || form.may_end(&self.held)) => false,
            Next::No => {
                // Not a call after all: it is text, mark and all. Another call may follow.
                let begun = self.held.trim_start();
                let space = if self.called { 0 } else { self.held.len() - begun.len() };
                let mark = Some(form.mark()).filter(|m| !m.is_empty() && begun.starts_with(m)).map_or(0, str::len);
                let whole = if mark == 0 && form.mark().is_empty() { begun.len() } else { mark };
                let from = self.held.len() - begun.len();
                let text = self.held[from - space..from + whole].to_owned();
                parts.extend(keep(Part::Content, &text));
                self.held.drain(..from + whole);
                self.state = State::Saying;
                !self.held.is_empty()
            }
        }
    }
}

/// A part, unless it is empty.
fn keep(part: fn(String) -> Part, text: &str) -> Vec<Part> {
    if text.is_empty() { Vec::new() } else { vec![part(text.to_owned())] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_coreml::generation::{ChatTemplate, TemplateLimits};
    use serde_json::json;

    fn form(call: &str) -> Arc<CallForm> {
        let text = format!(
            "{{{{ tools }}}}{{% for m in messages %}}<h>{{{{ m.content }}}}{{% for c in m.tool_calls %}}{call}{{% endfor %}}<e>\
             {{% endfor %}}"
        );
        let path = std::path::Path::new("template");
        let template = ChatTemplate::parse(path, &text, "", "", TemplateLimits::default()).expect("a template");
        Arc::new(CallForm::of(&template, &[json!({})]).expect("a form"))
    }

    fn tagged() -> Arc<CallForm> {
        form(
            "<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>",
        )
    }

    fn bare() -> Arc<CallForm> {
        form("{\"name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments | tojson }}}")
    }

    /// The parts of a text in one piece, which have to be those of it letter by letter.
    fn split(splitter: &Splitter, text: &str) -> Vec<Part> {
        let joined = |pieces: &[String]| {
            let mut splitter = splitter.clone();
            let mut all = Vec::new();
            for piece in pieces {
                all.extend(splitter.push(piece));
            }
            all.extend(splitter.end());
            let mut parts: Vec<Part> = Vec::new();
            for part in all {
                match (parts.last_mut(), part) {
                    (Some(Part::Content(a)), Part::Content(b)) | (Some(Part::Reasoning(a)), Part::Reasoning(b)) => {
                        a.push_str(&b);
                    }
                    (_, part) => parts.push(part),
                }
            }
            parts
        };
        let whole = joined(&[text].map(str::to_owned));
        assert_eq!(joined(&text.chars().map(String::from).collect::<Vec<_>>()), whole, "{text:?}");
        whole
    }

    fn content(text: &str) -> Part {
        Part::Content(text.to_owned())
    }

    fn thought(text: &str) -> Part {
        Part::Reasoning(text.to_owned())
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call(Call { id: None, name: name.to_owned(), arguments: arguments.to_owned() })
    }

    #[test]
    fn thoughts_are_apart_from_what_is_said() {
        let chat = Splitter::chat(false, None);
        assert_eq!(split(&chat, "Lima"), [content("Lima")]);
        assert_eq!(split(&chat, " <thin air"), [content(" <thin air")]);
        assert_eq!(split(&chat, "<think>\nA \n b\n</think>\n\nLima"), [thought("A \n b"), content("Lima")]);
        assert_eq!(split(&chat, "<think>\n\n</think>\n\nLima </think>"), [content("Lima </think>")]);
        assert_eq!(split(&chat, "<think>cut </thi"), [thought("cut </thi")]);
        assert_eq!(split(&Splitter::chat(true, None), "so\n</think>\nLima"), [thought("so"), content("Lima")]);
        assert_eq!(split(&Splitter::plain(), "<think>a</think>"), [content("<think>a</think>")]);
        assert_eq!(split(&chat, "  "), [content("  ")]);
    }

    #[test]
    fn calls_are_read_back_from_their_form() {
        let names: Arc<[Tool]> = ["f", "g"].map(Tool::any).into();
        let tags = Splitter::chat(false, Some((tagged(), names.clone())));
        let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>";
        let two = "<tool_call>\n{\"arguments\": {}, \"name\": \"g\"}\n</tool_call>";
        let f = call("f", "{\"a\":[1,\"}\"]}");
        assert_eq!(split(&tags, one), std::slice::from_ref(&f));
        assert_eq!(split(&tags, &format!("Well.\n{one}\n{two}\n")), [content("Well."), f.clone(), call("g", "{}")]);
        assert_eq!(
            split(&tags, &format!("<think>hm</think>{one} Done.")),
            [thought("hm"), f.clone(), content("Done.")]
        );
        for text in [
            "a < b",
            "<tool_call> is a mark",
            "<tool_call>\n{\"name\": \"h\", \"arguments\": {}}\n</tool_call>",
            "<tool",
        ] {
            assert_eq!(split(&tags, text), [content(text)]);
        }
        let cut = &one[..one.len() - 20];
        assert_eq!(split(&tags, cut), [content(cut)]);

        let plain = Splitter::chat(false, Some((bare(), names)));
        assert_eq!(split(&plain, "{\"name\": \"f\", \"parameters\": {\"a\": [1, \"}\"]}}"), [f]);
        assert_eq!(
            split(&plain, "[{\"name\": \"f\", \"parameters\": {}}, {\"name\": \"g\", \"parameters\": {}}]"),
            [call("f", "{}"), call("g", "{}")]
        );
        for text in ["{\"name\": 1}", "{not json", "Lima {\"name\": \"f\", \"parameters\": {}}", "[1]"] {
            assert_eq!(split(&plain, text), [content(text)]);
        }
    }
}
